"""The result of a training, for tests of what reads results."""

from tailcut.runs import Result

RESULT = Result(
    name="lenet5-776",
    command="tailcut train lenet5-776 --out runs/a",
    recipe={"data": {"name": "mnist"}},
    seed=0,
    epochs=30,
    device="cpu",
    num_devices=1,
    num_threads=2,
    seconds=812.5,
    versions={"tailcut": "0.1.0"},
    split_sizes={"train": 55000, "validation": 5000, "test": 10000},
    metrics={"accuracy": 0.9826},
    validation={"accuracy": 0.9874},
    num_kept=776,
    num_parameters=430500,
    num_other=0,
    file_bytes=1599,
    paper={"source": "Table 1", "metrics": {"accuracy": 0.9752}},
)
