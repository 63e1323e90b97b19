"""The training loop of the live experiments: it learns, repeats itself, and says what is wrong."""

import math
import subprocess
import sys
from threading import Timer

import pytest
import torch
from jupyter_client.manager import start_new_kernel
from torch import nn

from notebooks import ROOT
from utils.data import digits
from utils.training import error_rate, fit

TRAIN, TEST = (lambda x, y, x_test, y_test: ((x, y), (x_test, y_test)))(*digits())


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10))


def train(model: nn.Module, rate: float = 0.1, **options):
    return fit(model, TRAIN, TEST, optimizer=torch.optim.SGD(model.parameters(), rate, momentum=0.9), **options)


def test_a_small_network_learns_the_digits():
    history = train(network(), epochs=10)
    assert len(history.loss) == len(history.error) == 10
    assert history.loss[-1] < history.loss[0] / 4 and history.error[-1] < 0.08


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    first, again, other = (train(network(), epochs=2, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


def test_a_schedule_takes_a_step_after_each_epoch():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    fit(model, TRAIN, epochs=3, optimizer=optimizer, schedule=schedule)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 8)


def test_the_error_is_measured_only_where_there_is_something_to_measure_it_on():
    runs = {}
    for name, test in {"nothing": None, "the training data": TRAIN}.items():
        model = network()
        runs[name] = fit(model, TRAIN, test, epochs=1, optimizer=torch.optim.SGD(model.parameters(), 0.1))
    assert runs["nothing"].error == [] and runs["nothing"].loss == runs["the training data"].loss
    assert runs["the training data"].error == [error_rate(model, *TRAIN)]


def test_a_learning_rate_that_is_too_high_is_named_as_the_reason():
    with pytest.raises(FloatingPointError, match="lower learning rate"):
        train(network(), rate=1e20, epochs=3)
    with pytest.raises(FloatingPointError, match="became inf in epoch 1"):
        train(network(), epochs=1, loss=lambda logits, y: logits.sum().exp() + math.inf)


def test_a_single_input_that_is_left_joins_the_step_before_it():
    sizes = []
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    model.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    x, y = TRAIN
    fit(model, (x[:25], y[:25]), epochs=1, optimizer=torch.optim.SGD(model.parameters(), 0.1), batch_size=8)
    assert sizes == [8, 8, 9]


def test_the_error_rate_is_measured_without_dropout_and_leaves_the_mode_as_it_was():
    model = nn.Sequential(nn.Dropout(0.9), nn.Identity()).train()
    x, y = torch.eye(10), torch.arange(10)
    assert error_rate(model, x, y) == 0
    assert model.training
    assert error_rate(model, x, y.roll(1)) == 1
    assert error_rate(model, x, torch.tensor([0, 1, 2, 3, 4, 0, 0, 0, 0, 0])) == pytest.approx(0.5)


def test_there_must_be_one_class_for_each_input():
    x, y = TRAIN
    for labels in (y[:, None], y[:1], y[:-1]):
        with pytest.raises(ValueError, match=r"1297 inputs need as many classes"):
            error_rate(network(), x, labels)
        with pytest.raises(ValueError, match=r"1297 inputs need as many classes"):
            fit(network(), (x, labels), epochs=1, optimizer=torch.optim.SGD(network().parameters(), 0.1))


def test_measuring_the_error_leaves_each_part_of_a_model_in_its_mode():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10)).train()
    model[1].eval()
    error_rate(model, *TEST)
    with pytest.raises(RuntimeError):
        error_rate(model, torch.zeros(2, 1, 5, 5), torch.zeros(2))
    assert [module.training for module in model.modules()] == [True, True, False, True]


def test_the_loss_is_a_mean_over_all_inputs_measured_in_training_mode():
    model, seen = network().eval(), []

    def loss(logits, y):
        seen.append((model.training, len(y)))
        return 0 * logits.sum() + 1

    history = train(model, epochs=2, batch_size=1000, loss=loss)
    assert seen == [(True, 1000), (True, 297)] * 2 and history.loss == [1, 1]


def test_the_seed_decides_what_dropout_drops():
    runs = []
    for noise in (1, 2):
        model = network()
        torch.manual_seed(noise)
        runs.append(train(model, epochs=1))
    assert runs[0] == runs[1]


# Ctrl-C

FIRST_OPTIMIZER = """
import sys
import torch
import utils.training

before = set(sys.modules)
torch.optim.SGD([torch.zeros(1)], lr=0.1)
print(sorted(set(sys.modules) - before))
"""


def test_the_first_optimizer_imports_nothing_that_ctrl_c_could_break_off():
    result = subprocess.run([sys.executable, "-c", FIRST_OPTIMIZER], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


PREPARE = """
import threading
import utils
import torch
from utils.data import digits
from utils.gpu import benchmark, track_memory
from utils.training import fit

x, y, _, _ = digits()
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
"""
LONG = {
    "training": "fit(model, (x, y), epochs=10**9, optimizer=torch.optim.SGD(model.parameters(), 0.1))",
    "a benchmark": "benchmark(lambda: model(x), seconds=10**9)",
    "a measurement": "with track_memory():\n    while True: model(x)",
}


def test_ctrl_c_in_a_long_cell_leaves_a_kernel_that_can_go_on():
    manager, client = start_new_kernel(cwd=str(ROOT))

    def execute(code: str, interrupt: bool = False, **expressions: str) -> dict:
        """The reply to a cell, with the values of `expressions` after it; it is interrupted once it has printed."""

        def read(message: dict) -> None:
            if interrupt and message["content"].get("text") == "begun\n":
                Timer(0.5, manager.interrupt_kernel).start()

        options = {"user_expressions": expressions, "stop_on_error": False, "timeout": 120, "output_hook": read}
        return client.execute_interactive(code, **options)["content"]

    try:
        assert execute(PREPARE)["status"] == "ok"
        for name, code in LONG.items():
            reply = execute(f"print('begun', flush=True)\n{code}", interrupt=True)
            assert reply.get("ename") == "KeyboardInterrupt", (name, reply)
        short = LONG["training"].replace("10**9", "2")
        threads = "[thread.name for thread in threading.enumerate()]"
        reply = execute(f"history = {short}", epochs="len(history.loss)", threads=threads)
        assert reply["status"] == "ok", reply
        epochs, threads = (reply["user_expressions"][name]["data"]["text/plain"] for name in ("epochs", "threads"))
        assert epochs == "2" and "watch" not in threads  # the thread of track_memory
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
