"""Checkpoints by URL give what the same files on a disk give, from few and large requests."""

import copy
import importlib
import importlib.util
import json
import os
import pickle
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from swa_tools.averaging import AverageOptions, Selection, average_checkpoints, choose
from swa_tools.averaging.kernel import iterate_average
from swa_tools.averaging.plan import plan_average
from swa_tools.averaging.weighting import Uniform
from swa_tools.checkpoints import (
    content_digest,
    find_checkpoints,
    open_checkpoint,
    read_metadata,
    write_checkpoint,
)
from swa_tools.checkpoints import read_ahead as read_ahead_module
from swa_tools.checkpoints import servers as servers_module
from swa_tools.checkpoints.remote import RemotePath, as_path
from swa_tools.cli import run
from swa_tools.errors import CheckpointError, OutputError
from swa_tools.landscape.measurement_files import check_numbers

needs_aiohttp = pytest.mark.skipif(
    importlib.util.find_spec("aiohttp") is None, reason="aiohttp, which reads https://, is missing"
)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(servers_module, "PAUSES", (0.01, 0.01, 0.01, 0.01))


@pytest.fixture
def served(file_server):
    """Three checkpoints on the server; return its folder."""
    for i in (9, 10, 11):
        arrays = {
            f"layer{k}.weight": np.random.default_rng(100 * i + k).normal(size=(300, 300 + k))
            for k in range(12)
        }
        arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
        write_checkpoint(file_server.folder / f"epoch-{i}.safetensors", arrays, None)
    return file_server.folder


@pytest.fixture
def memory():
    """fsspec's file system in memory, which needs no driver."""
    import fsspec

    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


class TestUrls:
    def test_a_url_stays_as_it_is(self):
        path = as_path("s3://bucket/run/epoch-1.safetensors")
        assert str(path) == f"{path}" == "s3://bucket/run/epoch-1.safetensors"
        assert (path.name, path.suffix) == ("epoch-1.safetensors", ".safetensors")
        assert str(path.parent / "a.pth") == "s3://bucket/run/a.pth"
        assert [str(folder) for folder in path.parents] == ["s3://bucket/run", "s3://bucket"]
        assert path.resolve() == path.absolute() == as_path(path) == as_path(str(path))
        assert copy.deepcopy(path) == pickle.loads(pickle.dumps(path)) == path
        assert len({path, as_path(str(path))}) == 1

    def test_another_name_in_its_folder(self):
        url = as_path("https://host/a/plane.npz?key=1")
        assert str(url.with_suffix(".png")) == "https://host/a/plane.png?key=1"
        assert str(as_path("s3://a/b.npz").with_name("c.npz")) == "s3://a/c.npz"

    def test_the_query_of_a_web_address_is_no_part_of_the_name(self):
        path = as_path("https://host/run/model.index.json?token=a/b")
        assert path.name == "model.index.json"
        assert str(path.parent / "x.pth") == "https://host/run/x.pth?token=a/b"
        assert not path.is_pattern
        assert as_path("https://host/epoch-*.pth?token=a").is_pattern

    @pytest.mark.parametrize("text", ["a.pth", "/a/b.pth", "run/s3:/x", "C:/x"])
    def test_a_path_is_no_url(self, text):
        assert not isinstance(as_path(text), RemotePath)

    def test_files_on_a_disk_need_no_fsspec(self, tmp_path):
        for i in range(2):
            write_checkpoint(tmp_path / f"{i}.safetensors", {"w": np.full(3, i)}, None)
        script = (
            "import sys; from swa_tools.cli import run; status = run(sys.argv[1:]);"
            " print(status, {'fsspec', 'aiohttp', 'torch'} & set(sys.modules))"
        )
        arguments = ["average", tmp_path / "*.safetensors", "-o", tmp_path / "out.safetensors"]
        finished = subprocess.run(
            [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
        )
        assert finished.stdout.splitlines()[-1] == "1 set()"  # int64 that differs
        assert "must be equal" in finished.stderr or "differs" in finished.stderr


@needs_aiohttp
class TestHttp:
    def test_average_is_that_of_the_same_files_on_a_disk(self, file_server, served, tmp_path):
        outputs = []
        for where in (file_server.url(), f"{served}/"):
            output = tmp_path / f"{len(outputs)}.safetensors"
            assert run(["average", f"{where}epoch-*.safetensors", "-o", str(output)]) == 0
            outputs.append(output.read_bytes())
        assert outputs[0] == outputs[1]
        sources = read_metadata(output).average.sources
        assert [source.name for source in sources] == [
            f"epoch-{i}.safetensors" for i in (9, 10, 11)
        ]
        assert sources[0].digest == content_digest(file_server.url("epoch-9.safetensors"))

    def test_each_byte_is_asked_for_once_in_large_requests(self, file_server, served, tmp_path):
        urls = [file_server.url(path.name) for path in served.iterdir()]
        average_checkpoints(urls, tmp_path / "out.safetensors")
        n_bytes = sum(path.stat().st_size for path in served.iterdir())
        headers = 3 * (1 << 18)
        assert n_bytes < sum(file_server.sizes) + 3000 < n_bytes + headers + 6000
        assert len(file_server.sizes) == 6  # a header and a request of less than 8 MB of each

    def test_16_requests_are_under_way_at_once(self, file_server, served, tmp_path, monkeypatch):
        monkeypatch.setattr(read_ahead_module, "REQUEST_BYTES", 1 << 18)
        file_server.latency = 0.1
        urls = [file_server.url(path.name) for path in served.iterdir()]
        average_checkpoints(urls, tmp_path / "out.safetensors")
        assert file_server.most_at_once >= 16

    def test_memory_for_what_is_read_ahead_is_bounded(
        self, file_server, served, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(read_ahead_module, "READ_AHEAD_BYTES", 3 << 20)
        most = []
        real = read_ahead_module.ReadAhead._ask_for_next

        def watched(ahead):
            real(ahead)
            most.append(ahead._asked_bytes)

        monkeypatch.setattr(read_ahead_module.ReadAhead, "_ask_for_next", watched)
        urls = [file_server.url(path.name) for path in served.iterdir()]
        average_checkpoints(urls, tmp_path / "out.safetensors", options=AverageOptions(n_threads=4))
        assert len(most) > 30
        assert max(most) <= (1 << 20) + 3 * (1 << 20) // 3  # a request for each thread ahead

    def test_tensors_in_another_order_are_read(self, file_server, served, tmp_path, monkeypatch):
        monkeypatch.setattr(read_ahead_module, "REQUEST_BYTES", 100_000)
        import torch
        from safetensors.torch import load_file

        path = served / "epoch-10.safetensors"
        torch.save(dict(reversed(load_file(path).items())), served / "epoch-10.pth")
        outputs = []
        for where in (file_server.url(), f"{served}/"):
            names = ["epoch-9.safetensors", "epoch-10.pth", "epoch-11.safetensors"]
            outputs.append(tmp_path / f"{len(outputs)}.safetensors")
            average_checkpoints([where + name for name in names], outputs[-1])
        assert outputs[0].read_bytes() == outputs[1].read_bytes()

    def test_a_torch_file_opens_with_few_requests_at_once(self, file_server):
        import torch

        channels_last = torch.randn(8, 3, 5, 5).to(memory_format=torch.channels_last)
        weights = {f"w{i}": torch.randn(50, 500) for i in range(40)} | {"c": channels_last}
        weights["tied"] = weights["w3"]
        torch.save({"state_dict": weights, "epoch": 3}, file_server.folder / "a.pth")
        file_server.latency = 0.05
        with open_checkpoint(file_server.url("a.pth")) as checkpoint:
            assert file_server.most_at_once >= 16  # the records' headers
            assert len(file_server.sizes) < 60
            checkpoint.will_read_all()
            for name, tensor in weights.items():
                np.testing.assert_array_equal(checkpoint.read(name), tensor.numpy())
            assert checkpoint.numbers == {"epoch": 3}

    def test_shards_lie_beside_their_index(self, file_server, sharded):
        arrays = {name: np.full(50, i, np.float32) for i, name in enumerate("abcd")}
        index = sharded(file_server.folder, ["ab", "cd"], arrays)
        with open_checkpoint(file_server.url(index.name)) as checkpoint:
            np.testing.assert_array_equal(checkpoint.read("c"), arrays["c"])
            assert checkpoint.digest() == content_digest(index)
        document = json.loads(index.read_text())
        document["weight_map"]["a"] = "../" + document["weight_map"]["a"]
        index.write_text(json.dumps(document))
        with pytest.raises(CheckpointError, match="outside its folder"):
            open_checkpoint(file_server.url(index.name))

    def test_copies_count_once(self, file_server, served):
        copied = served / "last.safetensors"
        copied.write_bytes((served / "epoch-11.safetensors").read_bytes())
        paths = find_checkpoints([file_server.url("*.safetensors")])
        assert paths[0].name == "last.safetensors"
        choice = choose(paths, Selection(last=2))
        assert [path.name for path in choice.paths] == [f"epoch-{i}.safetensors" for i in (10, 11)]
        assert [duplicate.checkpoint.name for duplicate in choice.duplicates] == [copied.name]

    def test_averages_one_tensor_after_the_other(self, file_server, served):
        url = file_server.url("epoch-9.safetensors")
        with open_checkpoint(url) as one, open_checkpoint(served / "epoch-9.safetensors") as same:
            plan = plan_average([one], Uniform())
            for name, array in iterate_average(plan):
                np.testing.assert_array_equal(array, same.read(name))
        assert len(file_server.sizes) == 2

    @pytest.mark.parametrize("failures", [2, -2])
    def test_a_connection_that_fails_is_tried_again(self, file_server, served, failures):
        name = "epoch-9.safetensors"
        file_server.failures[name] = failures
        assert content_digest(file_server.url(name)) == content_digest(served / name)
        assert file_server.failures[name] == 0

    def test_errors_are_one_line(self, file_server, served, capsys, tmp_path):
        name = "epoch-9.safetensors"
        file_server.status["secret.pth"] = 403
        file_server.failures[name] = 1000
        refused = "http://127.0.0.1:9/a.pth"
        for url, message in {
            file_server.url("none.safetensors"): "no such file",
            file_server.url("secret.pth"): "no permission (403, message='Forbidden'",
            file_server.url("none-*.pth"): "no file matches this pattern",
            file_server.url(name): "the connection failed 5 times: 503",
            refused: "the connection failed 5 times: ",
            "abc://a/b.pth": "Protocol not known: abc; expected hf://, s3://, gs://, az:// or",
        }.items():
            output = str(tmp_path / "x.safetensors")
            assert run(["average", url, "-o", output]) == 1
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith(f"Error: {url}: {message}")

    def test_a_server_without_ranges_is_refused(self, file_server, served):
        file_server.has_ranges = False
        with pytest.raises(CheckpointError, match="does not send parts of a file"):
            content_digest(file_server.url("epoch-9.safetensors"))

    def test_a_file_that_changes_is_an_error(self, file_server, served):
        path = served / "epoch-9.safetensors"
        with open_checkpoint(file_server.url(path.name)) as checkpoint:
            checkpoint.check_unchanged()
            path.write_bytes(path.read_bytes())
            with pytest.raises(CheckpointError, match="it changed while it was read"):
                checkpoint.check_unchanged()

    def test_nothing_is_kept_on_disk_unless_the_url_asks_for_it(
        self, file_server, served, tmp_path, monkeypatch
    ):
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        name = "epoch-9.safetensors"
        before = sorted(tmp_path.rglob("*"))
        expected = content_digest(file_server.url(name))
        assert sorted(tmp_path.rglob("*")) == before
        cached = f"simplecache::{file_server.url(name)}"
        assert content_digest(cached) == expected

    def test_a_web_server_is_no_place_for_outputs(self, file_server, served):
        with pytest.raises(OutputError, match="cannot write to a web server"):
            average_checkpoints(
                [served / "epoch-9.safetensors"], file_server.url("out.safetensors")
            )


class TestFolders:
    """In memory; servers of objects answer in the same way."""

    @pytest.fixture
    def states(self, memory, tmp_path):
        """Return a function that stores a checkpoint under a name."""

        def write(name, value):
            arrays = {"w": np.full((4, 4), value, np.float32)}
            write_checkpoint(f"memory://{name}", arrays, None)

        return write

    def test_what_a_killed_writer_left_is_removed_by_the_next(self, states, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        (tmp_path / ".x.safetensors.0123456789ab.tmp").write_bytes(b"half of it")
        states("run/x.safetensors", 1)
        assert os.listdir(tmp_path) == []

    def test_a_folder_of_checkpoints(self, states, tmp_path):
        for i in (10, 9, 2):
            states(f"run/epoch-{i}.safetensors", i)
        states("run/optimizer.safetensors", 0)
        left_out = []
        paths = find_checkpoints(["memory://run"], on_left_out=lambda *one: left_out.append(one))
        assert [path.name for path in paths] == [f"epoch-{i}.safetensors" for i in (2, 9, 10)]
        assert [path.name for path, _ in left_out] == ["optimizer.safetensors"]
        output = tmp_path / "out.safetensors"
        average_checkpoints(paths, output)
        with open_checkpoint(output) as checkpoint:
            assert checkpoint.read("w")[0, 0] == 7

    def test_a_run_is_its_captures(self, states, memory):
        memory.pipe("/job/run.json", b"{}")
        states("job/start.safetensors", 0)
        states("job/checkpoints/cycle-001.safetensors", 1)
        assert [path.name for path in find_checkpoints(["memory://job/"])] == [
            "cycle-001.safetensors"
        ]

    def test_a_model_folder_is_its_weights(self, states):
        states("model/model.safetensors", 3)
        (path,) = find_checkpoints(["memory://model"])
        with open_checkpoint(path) as checkpoint:
            assert (checkpoint.name, checkpoint.read("w")[0, 0]) == ("model", 3)

    def test_by_time(self, states, memory):
        for i in (2, 1):
            states(f"run/{i}.safetensors", i)
        paths = find_checkpoints(["memory://run/*.safetensors"])
        assert [path.name for path in choose(paths, Selection(by="time")).paths] == [
            "2.safetensors",
            "1.safetensors",
        ]

    def test_a_metric_in_the_table_of_a_trainer(self, states, memory):
        for i in (1, 2, 3):
            states(f"run/checkpoint-{i}.safetensors", i)
        memory.pipe("/run/summary.csv", b"epoch,top1\n1,50\n2,70\n3,60\n")
        selection = Selection(top=1, metric="top1")
        (path,) = choose(find_checkpoints(["memory://run"]), selection).paths
        assert path.name == "checkpoint-2.safetensors"

    def test_a_run_is_written_to_a_disk(self, memory, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        assert run(["finetune", "timm/test_resnet", "--data", "x", "-o", "memory://run"]) == 1
        assert "give a local folder" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    def test_measurements_are_written_to_a_disk(self):
        with pytest.raises(OutputError, match="give a local file"):
            check_numbers(as_path("memory://plane.npz"), force=False)

    def test_an_output_appears_whole_or_not_at_all(self, states, memory, tmp_path, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        states("in/1.safetensors", 1)
        states("in/2.safetensors", np.nan)
        url = "memory://out/average.safetensors"
        with pytest.raises(CheckpointError, match="NaN"):
            average_checkpoints(["memory://in/1.safetensors", "memory://in/2.safetensors"], url)
        assert memory.find("/out") == []
        average_checkpoints(["memory://in/1.safetensors"], url)
        assert content_digest(url) == content_digest("memory://in/1.safetensors")
        with pytest.raises(OutputError, match="exists already"):
            average_checkpoints(["memory://in/1.safetensors"], url)
        options = AverageOptions(force=True)
        average_checkpoints(["memory://in/1.safetensors"], url, options=options)
        with pytest.raises(OutputError, match="one of the checkpoints to average"):
            average_checkpoints([url], url, options=options)
        average_checkpoints([url], "memory://out/average.pth")
        assert content_digest("memory://out/average.pth") == content_digest(url)
        assert list(tmp_path.iterdir()) == []

    def test_a_model_folder_is_written_by_one_process_and_without_shards(self, states, memory):
        states("in/model.safetensors", 1)
        memory.pipe("/in/config.json", b"{}")
        average_checkpoints(["memory://in"], "memory://out/")
        assert memory.find("/out") == ["/out/config.json", "/out/model.safetensors"]
        assert content_digest("memory://out") == content_digest("memory://in")
        with pytest.raises(OutputError, match="exists already"):
            average_checkpoints(["memory://in"], "memory://out/")
        options = AverageOptions(force=True)
        average_checkpoints(["memory://in"], "memory://out/", options=options)
        with pytest.raises(OutputError, match="one of the checkpoints to average"):
            average_checkpoints(["memory://in"], "memory://in/", options=options)
        options = AverageOptions(max_shard_size=1000)
        with pytest.raises(OutputError, match="shards are written to a disk"):
            average_checkpoints(["memory://in"], "memory://shards/", options=options)
        assert memory.find("/shards") == []
        with pytest.raises(OutputError, match="cannot write to a web server"):
            average_checkpoints(["memory://in"], "https://host.invalid/out/")


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("az", "adlfs")])
def test_a_missing_driver_is_named(monkeypatch, scheme, package):
    registry = importlib.import_module("fsspec.registry")  # fsspec.registry is a dictionary
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(registry._registry, scheme, raising=False)
    with pytest.raises(
        CheckpointError, match=f"needs the package {package}: pip install {package}"
    ):
        open_checkpoint(f"{scheme}://nowhere/{package}.pth")


@pytest.fixture
def s3(monkeypatch):
    """An S3-compatible server with one bucket; return a client."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    import botocore.session

    server = moto.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    client = botocore.session.get_session().create_client("s3")
    client.create_bucket(Bucket="bucket")
    yield client
    server.stop()


@pytest.mark.filterwarnings("default")  # of boto's libraries
def test_s3_reads_and_writes(s3, tmp_path, capsys):
    for i in (9, 10):
        path = tmp_path / f"epoch-{i}.safetensors"
        write_checkpoint(path, {"w": np.full((1500, 1500), i, np.float32)}, None)
        s3.put_object(Bucket="bucket", Key=f"run/{path.name}", Body=path.read_bytes())
    urls = [str(path) for path in find_checkpoints(["s3://bucket/run/epoch-*.safetensors"])]
    assert urls == [f"s3://bucket/run/epoch-{i}.safetensors" for i in (9, 10)]
    assert find_checkpoints(["s3://bucket/run/"]) == [as_path(url) for url in urls]
    assert run(["average", "s3://bucket/run", "-o", "s3://bucket/average.safetensors"]) == 0
    assert run(["inspect", "s3://bucket/average.safetensors", *urls, "--verify"]) == 0
    with open_checkpoint("s3://bucket/average.safetensors") as checkpoint:
        assert checkpoint.read("w")[-1, -1] == 9.5
    capsys.readouterr()
    for url in ("s3://bucket/none.pth", "s3://no-bucket/none.pth"):
        assert run(["inspect", url]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line == f"Error: {url}: no such file"


def test_hugging_face_needs_no_driver(file_server, tmp_path):
    for i in (9, 10):
        path = file_server.folder / f"epoch-{i}.safetensors"
        write_checkpoint(path, {"w": np.full((1000, 1000), i, np.float32)}, None)
    script = "import sys; from swa_tools.cli import run; sys.exit(run(sys.argv[1:]))"
    output = tmp_path / "out.safetensors"
    arguments = ["average", "hf://org/repo@main/epoch-*.safetensors", "-o", str(output)]
    environment = {**os.environ, "HF_ENDPOINT": file_server.url().rstrip("/")}
    subprocess.run([sys.executable, "-c", script, *arguments], env=environment, check=True)
    with open_checkpoint(output) as checkpoint:
        assert checkpoint.read("w")[0, 0] == 9.5
    names = [source.name for source in read_metadata(output).average.sources]
    assert names == ["epoch-9.safetensors", "epoch-10.safetensors"]
    assert max(file_server.sizes) == 4_000_000  # a request for all numbers of a file


PEAK = """
import sys
import tempfile
from swa_tools.averaging import average_checkpoints
average_checkpoints(sys.argv[1:-1], sys.argv[-1])
with open("/proc/self/status") as status:
    lines = dict(line.split(":", 1) for line in status)
print(int(lines["VmHWM"].split()[0]) * 1024)
"""


@needs_aiohttp
@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
@pytest.mark.parametrize("n", [8, 40])
def test_peak_memory_is_below_600_mb(file_server, tmp_path, n):
    n_elements = 1_000_000_000 // n // 4
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": [n_elements], "data_offsets": [0, 4 * n_elements]}}
    ).encode()
    for i in range(n):
        with open(file_server.folder / f"{i}.safetensors", "wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(file.tell() + 4 * n_elements)
    urls = [file_server.url(f"{i}.safetensors") for i in range(n)]
    command = [sys.executable, "-c", PEAK, *urls, str(tmp_path / "out.safetensors")]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(finished.stdout) < 600_000_000, finished.stdout
