"""The server: sends the network, takes the mean of what comes back (FedAvg), and measures it on the test images.

The mean of coefficients is the mean of weights, since the transform between them is linear.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from torch import nn

from federated.messages import from_records, make_network, num_bytes, to_records
from tailcut.data import open_dataset
from tailcut.evaluation import evaluate

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train for `num-rounds` rounds, and write a line of JSON for each to the file `result`."""
    config = context.run_config
    packed = config["num-kept"] > 0
    torch.manual_seed(0)
    model = make_network(config["num-kept"])
    lines = []
    for number in range(1, config["num-rounds"] + 1):
        content = to_records(model, packed=packed)
        sent = num_bytes(content)
        content["round"] = ConfigRecord({"number": number})
        replies = exchange(grid, content, config["num-clients"])
        received = [num_bytes(reply) for reply in replies]
        model = mean_network(
            [from_records(reply) for reply in replies], [reply["metrics"]["num-examples"] for reply in replies]
        )
        lines.append(
            {
                "round": number,
                "sent_to_each": sent,
                "received_from_each": round(sum(received) / len(received)),
                **evaluate(model, open_dataset(config["data"], "test")),
            }
        )
        print(lines[-1], flush=True)
    if config["result"]:
        Path(config["result"]).write_text("".join(json.dumps(line) + "\n" for line in lines))


def exchange(grid: Grid, content: RecordDict, num_clients: int) -> list[RecordDict]:
    """Send `content` to `num_clients` clients, once they are there, and return what they answer.

    Raises:
        RuntimeError: a client answered with an error.
    """
    nodes: list[int] = []
    while len(nodes) < num_clients:
        time.sleep(0.2)
        nodes = sorted(grid.get_node_ids())
    messages = [Message(content, dst_node_id=node, message_type="train") for node in nodes[:num_clients]]
    replies = list(grid.send_and_receive(messages))
    failed = [reply.error for reply in replies if reply.has_error()]
    if failed:
        raise RuntimeError(f"a client failed: {failed[0]}")
    return [reply.content for reply in replies]


def mean_network(models: Sequence[nn.Module], num_examples: Sequence[int]) -> nn.Module:
    """Return the mean of networks of one architecture, each weighted by its number of training images."""
    states = [model.state_dict() for model in models]
    shares = [count / sum(num_examples) for count in num_examples]
    mean = {name: sum(share * state[name] for share, state in zip(shares, states, strict=True)) for name in states[0]}
    models[0].load_state_dict(mean)
    return models[0]
