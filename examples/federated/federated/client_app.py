"""A client: trains the network that comes on its own part of the images, and sends it back."""

import math

import torch
from flwr.app import Context, Message, MetricRecord
from flwr.clientapp import ClientApp
from torch.nn.functional import cross_entropy

from federated.messages import from_records, to_records
from tailcut.data import open_dataset

BATCH_SIZE = 64

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train on this client's images: each `num-partitions`-th of the training images."""
    config, node = context.run_config, context.node_config
    dataset = open_dataset(config["data"], "train")
    part = range(int(node["partition-id"]), len(dataset), int(node["num-partitions"]))
    model = from_records(message.content).train()
    number = int(message.content["round"]["number"])
    lr = config["learning-rate"] * (1 + math.cos(math.pi * (number - 1) / config["num-rounds"])) / 2
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    images, labels = dataset.batch(part)
    generator = torch.Generator().manual_seed(number)
    for _ in range(config["num-epochs"]):
        for batch in torch.randperm(len(part), generator=generator).split(BATCH_SIZE):
            optimizer.zero_grad()
            cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    content = to_records(model, packed=config["num-kept"] > 0)
    content["metrics"] = MetricRecord({"num-examples": len(part)})
    return Message(content, reply_to=message)
