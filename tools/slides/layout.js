// Turns each slide of the notebook, however long, into pages of 1280 × 720: a block that finds no room below the others
// begins a new page, one step further on. The browser does this when it opens the file, because only it knows how
// large its letters are.

const SIZES = [0, 1, 2]; // of letters, the largest first; see style.css
const [WIDTH, HEIGHT, GAP] = [1200, 660, 18]; // px, of a page without its margins, and between two blocks
const SMALLEST = 18; // px, of a letter: drawings are made for 1280 px with letters of 22 px, plots with letters of 18 px
const SHARPEST = 1.4; // how much a plot may be enlarged
const REPEATED = 26; // px, of the title of an earlier page
const FEW = 4; // printed lines

/** Each element's height at each size of letters; a picture's natural size and the scales at which it is legible. */
function measure(elements) {
  const page = document.createElement("div");
  page.className = "page measured";
  page.append(...elements);
  document.querySelector(".reveal").append(page);
  const heights = SIZES.map((size) => {
    page.dataset.size = size;
    return elements.map((element) => element.getBoundingClientRect().height);
  });
  page.remove();
  return elements.map((element, i) => {
    const block = { element, heading: /^H\d$/.test(element.tagName), heights: heights.map((all) => all[i]) };
    if (!element.classList.contains("picture")) return block;
    const svg = element.querySelector("svg");
    const [width, height] = svg
      ? [svg.viewBox.baseVal.width, svg.viewBox.baseVal.height]
      : [element.naturalWidth, element.naturalHeight];
    const most = Math.min(WIDTH / width, svg ? WIDTH : SHARPEST);
    return { ...block, heights: SIZES.map(() => 0), width, height, most, least: Math.min(most, svg ? SMALLEST / 22 : 1) };
  });
}

/** The scale at which the pictures of a page leave its text enough room, and whether all is legible then. */
function fit(blocks, size) {
  const text = blocks.reduce((sum, block) => sum + block.heights[size] + GAP, -GAP);
  const pictures = blocks.filter((block) => block.width);
  const natural = pictures.reduce((sum, picture) => sum + picture.height, 0);
  const scale = Math.min((HEIGHT - text) / natural, ...pictures.map((picture) => picture.most));
  return { scale, fits: text <= HEIGHT && pictures.every((picture) => scale >= picture.least) };
}

const holds = (page) => page.some((block) => !block.heading && !block.repeats);
/** Whether a block is a few printed lines, which say little on a page of their own. */
const isShort = ({ element }) => element.matches(".printed") && element.textContent.trim().split("\n").length <= FEW;

/** Fill pages in order. Those that have no heading of their own repeat the last one. */
function pack(blocks, title, size) {
  const pages = [[]];
  const repeated = () => ({ repeats: title, heights: SIZES.map(() => REPEATED) });
  function put(block) {
    const page = pages.at(-1);
    if (!page.length && !block.heading && title) page.push(repeated());
    page.push(block);
    if (block.heading) title = block.element.textContent;
  }
  for (const block of blocks) {
    const page = pages.at(-1);
    if (!holds(page) || fit([...page, block], size).fits) {
      put(block);
      continue;
    }
    // Headings go with what they head, and code with what little it prints, if that fits and leaves something behind.
    const code = isShort(block) && page.at(-1).element.matches(".input");
    let kept = page.length - code;
    while (page[kept - 1]?.heading) kept--;
    const fits = () => holds(page.slice(0, kept)) && fit([repeated(), ...page.slice(kept), block], size).fits;
    if (code && !fits()) kept = page.length;
    const moved = page.splice(kept);
    pages.push([]);
    for (const other of [...moved, block]) put(other);
  }
  return pages;
}

/** The pages of one slide, each with its size of letters: few pages, but letters as large as there is room for. */
function paginate(blocks, title) {
  const ways = SIZES.map((size) => {
    const pages = pack(blocks, title, size);
    const full = pages.filter((page) => !fit(page, size).fits).length;
    const poor = pages.filter((page) => page.every((block) => block.repeats || isShort(block))).length;
    return { pages, cost: pages.length + 0.7 * size + 0.5 * poor + 100 * full };
  });
  const { pages } = ways.reduce((best, way) => (way.cost < best.cost ? way : best));
  return pages.map((blocks) => {
    const size = SIZES.find((size) => fit(blocks, size).fits) ?? SIZES.at(-1);
    return { blocks, size, scale: fit(blocks, size).scale };
  });
}

/** A page as reveal.js wants it. What comes first on it appears with it, the other cells one by one. */
function section({ blocks, size, scale }, notes) {
  const page = document.createElement("div");
  page.className = "page";
  page.dataset.size = size;
  const first = blocks.find((block) => !block.heading && !block.repeats)?.step;
  for (const { element, repeats, step, width, height } of blocks) {
    if (repeats) {
      page.insertAdjacentHTML("beforeend", '<p class="repeated"></p>');
      page.lastChild.textContent = repeats;
      continue;
    }
    if (step > first) {
      element.classList.add("fragment");
      element.dataset.fragmentIndex = step;
    }
    if (width) element.style.cssText = `width: ${scale * width}px; height: ${scale * height}px`;
    page.append(element);
  }
  const codes = [...page.querySelectorAll(".input")];
  const narrowest = Math.min(...codes.map((code) => parseFloat(code.style.getPropertyValue("--fit"))));
  for (const code of codes) code.style.setProperty("--fit", `${narrowest}px`); // all code of a page alike
  const section = document.createElement("section");
  section.append(page, ...notes.map((note) => note.cloneNode(true)));
  return section;
}

/** Replace the slides by their pages. */
function layOut() {
  const slides = [...document.querySelectorAll(".slides > section > section")].map((slide) => {
    const notes = [...slide.querySelectorAll("aside.notes")];
    for (const note of notes) note.remove();
    const fragments = [...slide.querySelectorAll(".fragment")];
    const elements = [...slide.querySelectorAll(".text > *, .code > *")];
    return { slide, notes, elements, steps: elements.map((element) => fragments.indexOf(element.closest(".fragment"))) };
  });
  const blocks = measure(slides.flatMap(({ elements }) => elements));
  let title = "";
  for (const { slide, notes, steps } of slides) {
    const own = blocks.splice(0, steps.length).map((block, i) => ({ ...block, step: steps[i] }));
    slide.replaceWith(...paginate(own, title).map((page) => section(page, notes)));
    title = own.findLast((block) => block.heading)?.element.textContent ?? title;
  }
}

addEventListener("load", async () => {
  await Promise.all([...document.fonts].map((font) => font.load()));
  layOut();
  Reveal.initialize({
    width: 1280, height: 720, margin: 0, center: false, controls: false, hash: true, navigationMode: "linear",
    pdfSeparateFragments: false, slideNumber: "c/t", transition: "none", backgroundTransition: "none",
    plugins: [RevealNotes],
  });
});
