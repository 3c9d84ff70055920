"""What other trainers write is read; each test needs the library and is skipped without it.

The dependency group `foreign` has them all.
"""

import datetime as dt
import logging
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from swa_tools.averaging import Selection, choose
from swa_tools.checkpoints import find_checkpoints, open_checkpoint
from swa_tools.checkpoints.folders import list_folder

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


BATCHES = [(torch.randn(6, 3), torch.randint(2, (6,))) for _ in range(2)]


def assert_holds(path, state, **options):
    with open_checkpoint(path, **options) as checkpoint:
        assert set(checkpoint.tensors) == set(state)
        for name, tensor in state.items():
            np.testing.assert_array_equal(checkpoint.read(name), tensor.detach().numpy())
        return checkpoint.notes


def test_lightning(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(lightning.LightningModule):
        def __init__(self, folder, started):
            super().__init__()
            self.save_hyperparameters()
            self.model = network()

        def training_step(self, batch, _):
            loss = nn.functional.cross_entropy(self.model(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    save = lightning.callbacks.ModelCheckpoint(
        tmp_path / "saved", "{epoch}-{loss:.3f}", save_top_k=-1, save_last=True, monitor="loss"
    )
    trainer = lightning.Trainer(
        max_epochs=3,
        callbacks=[save],
        logger=False,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    module = Module(Path("/data"), dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    trainer.fit(module, torch.utils.data.DataLoader(BATCHES, batch_size=None))
    listing = list_folder(tmp_path / "saved")
    assert [path.name.partition("-")[0] for path in listing.checkpoints] == [
        f"epoch={k}" for k in range(3)
    ]
    assert [path.name for path in listing.left_out] == ["last.ckpt"]
    last = listing.checkpoints[-1]
    notes = assert_holds(last, module.model.state_dict())
    assert "the prefix 'model.' is removed from every name" in notes
    assert_holds(last, module.state_dict(), keep_names=True)
    (best,) = choose(listing.checkpoints, Selection(top=1, metric="loss", lowest=True)).paths
    assert best.name.partition("loss=")[2] == min(
        path.name.partition("loss=")[2] for path in listing.checkpoints
    )


def test_fastai(tmp_path):
    fastai = pytest.importorskip("fastai.learner")
    from fastai.data.core import DataLoaders

    model = network()
    loaders = DataLoaders(*(torch.utils.data.DataLoader(BATCHES, batch_size=None),) * 2)
    loss = nn.functional.cross_entropy
    learner = fastai.Learner(loaders, model, loss_func=loss, path=tmp_path)
    learner.create_opt()
    path = learner.save("epoch-1", with_opt=True)
    assert_holds(path, model.state_dict())
    learner.save("plain", with_opt=False)
    assert_holds(tmp_path / "models/plain.pth", model.state_dict())


def test_mmengine(tmp_path):
    runner_module = pytest.importorskip("mmengine.runner")
    mmengine = pytest.importorskip("mmengine")
    logging.disable(logging.CRITICAL)

    class Module(mmengine.model.BaseModel):
        def __init__(self):
            super().__init__()
            self.layers = network()

        def forward(self, images, labels, mode="loss"):
            loss = nn.functional.cross_entropy(self.layers(images), labels)
            return {"loss": loss}

    runner = runner_module.Runner(
        model=Module(),
        work_dir=str(tmp_path),
        train_dataloader=torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(torch.randn(6, 3), torch.zeros(6).long()), batch_size=3
        ),
        train_cfg={"by_epoch": True, "max_epochs": 3},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}},
        default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 1}},
    )
    runner.train()
    logging.disable(logging.NOTSET)
    found = list_folder(tmp_path).checkpoints
    assert [path.name for path in found] == [f"epoch_{k}.pth" for k in (1, 2, 3)]
    assert_holds(found[-1], runner.model.state_dict())


def test_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    configuration = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=16,
        patch_size=8,
        num_labels=2,
    )
    model = transformers.ViTForImageClassification(configuration)

    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return {"pixel_values": torch.full((3, 16, 16), index / 4), "labels": index % 2}

    options = transformers.TrainingArguments(
        str(tmp_path / "out"),
        num_train_epochs=3,
        save_strategy="epoch",
        report_to=[],
        per_device_train_batch_size=2,
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
    )
    transformers.Trainer(model=model, args=options, train_dataset=Images()).train()
    found = find_checkpoints([tmp_path / "out"])
    assert [path.name for path in found] == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    # Its own names differ from those of its files, where it renames them.
    state = safetensors.torch.load_file(found[-1] / "model.safetensors")
    assert_holds(found[-1], state)
    left_out = {path.name for path in list_folder(found[-1]).left_out}
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"} <= left_out
    model.save_pretrained(tmp_path / "sharded", max_shard_size="5KB")
    assert len(list((tmp_path / "sharded").glob("*-of-*"))) > 1
    assert_holds(tmp_path / "sharded", state)


def test_accelerate(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model = network()
    model, _ = accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
    for step in (9, 10):
        accelerator.save_state(str(tmp_path / f"step_{step}"))
        accelerator.save_state(str(tmp_path / f"torch_{step}"), safe_serialization=False)
    state = accelerator.unwrap_model(model).state_dict()
    for kind in ("step", "torch"):
        (path,) = find_checkpoints([tmp_path / f"{kind}_10"])
        assert_holds(path, state)
    found = find_checkpoints([f"{tmp_path}/step_*"])
    assert [path.name for path in found] == ["step_9", "step_10"]


def test_peft(tmp_path):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(network(), peft.LoraConfig(r=2, target_modules=["0", "2"]))
    for k in (1, 2):
        model.save_pretrained(str(tmp_path / f"adapter-{k}"))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1)
    choice = choose(find_checkpoints([tmp_path]), Selection())
    assert [path.name for path in choice.paths] == ["adapter-1", "adapter-2"]
    assert any("the mean of factors is not the mean of their products" in n for n in choice.notes)
