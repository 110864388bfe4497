"""Triton's client, unchanged, against sliderun-serve: answers equal those of `sliderun run`, by HTTP and gRPC; and the samples for KServe and Triton.

Needs tritonclient[http,grpc], numpy and PyYAML.
"""

import argparse
import concurrent.futures
import contextlib
import pathlib
import re
import subprocess
import tempfile

import numpy
import tritonclient.grpc
import tritonclient.http
import yaml
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException

SAMPLES = pathlib.Path(__file__).resolve().parents[2] / "samples/serving"


@contextlib.contextmanager
def serve(program, plan, *options):
    """A server on free ports; gives its HTTP and gRPC addresses. It ends by SIGTERM, with exit code 0."""
    command = [program, f"model={plan}", "--http", "0", "--grpc", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield [process.stdout.readline().strip().split("//")[1] for _ in range(2)]
        finally:
            process.terminate()
            assert process.wait(timeout=60) == 0, process.returncode


def draw(inputs, rows, tokens, seed):
    """Token ids, masks that end with zeros, and zeros, by the inputs' names."""
    random = numpy.random.default_rng(seed)
    tensors = {}
    for name in inputs:
        if "mask" in name:
            tensors[name] = (numpy.arange(tokens) < random.integers(1, tokens + 1, (rows, 1))).astype(numpy.int64)
        elif "input_ids" in name:
            tensors[name] = random.integers(0, 1000, (rows, tokens))
        else:
            tensors[name] = numpy.zeros((rows, tokens), numpy.int64)
    return tensors


def run(program, plan, tensors, names):
    """What `sliderun run` gives, by the outputs' names."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        command = [program, "run", str(plan), "--output", str(folder / "out")]
        for name, tensor in tensors.items():
            numpy.save(folder / f"{name}.npy", tensor)
            command += ["--input", f"{name}={folder / name}.npy"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return {name: numpy.load(folder / "out" / (re.sub(r"[^\w.-]", "_", name) + ".npy")) for name in names}


def infer(module, client, tensors, binary=True, outputs=(), **options):
    inputs = []
    for name, tensor in tensors.items():
        given = module.InferInput(name, list(tensor.shape), "INT64")
        given.set_data_from_numpy(tensor, *([binary] if module is tritonclient.http else []))
        inputs.append(given)
    form = {"binary_data": binary} if module is tritonclient.http else {}
    wanted = [module.InferRequestedOutput(name, **form) for name in outputs]
    return client.infer("model", inputs, outputs=wanted or None, **options)


def check(module, address, expected, tensors):
    with module.InferenceServerClient(address) as client:
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("model")
        for binary in [True, False]:
            # By the names that the plan has, and all outputs.
            for names in [tuple(expected), ()]:
                result = infer(module, client, tensors, binary, names, request_id="7", timeout=60_000_000)
                for name, value in expected.items():
                    found = result.as_numpy(name)
                    assert found.dtype == value.dtype and numpy.array_equal(found, value), name
        for wrong, reason in [({"input_ids": tensors["input_ids"][:, :1]}, ""), ({}, "missing")]:
            try:
                infer(module, client, {k: v for k, v in tensors.items() if k in wrong} | wrong)
                raise AssertionError("a wrong request was answered")
            except InferenceServerException as error:
                assert reason in error.message(), error
        client.unload_model("model")
        client.load_model("model")


def check_together(address, sliderun, plan, inputs, outputs):
    """Many at once, of different lengths, against each alone."""
    cases = [draw(inputs, 1, 3 + i % 13, i) for i in range(48)]
    def one(case):
        # Clients are not for several threads.
        with tritonclient.http.InferenceServerClient(address) as client:
            return infer(tritonclient.http, client, case)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        results = list(pool.map(one, cases))
    worst = 0.0
    for case, result in list(zip(cases, results))[::8]:
        mask = case["attention_mask"][0].astype(bool)
        for name, value in run(sliderun, plan, case, outputs).items():
            found = result.as_numpy(name)
            assert found.shape == value.shape, name
            # Rows of tokens that are masked mean nothing.
            tokens = value.ndim > 1 and value.shape[1] == len(mask)
            found, value = (found[0][mask], value[0][mask]) if tokens else (found, value)
            worst = max(worst, float(numpy.abs(found - value).max()))
    assert worst < 1e-4, worst
    return worst


def check_messages():
    """Names and numbers of the fields that serve/src/protocol/proto.rs has, as Triton's client has them."""
    expected = {
        "ModelInferRequest": {"model_name": 1, "model_version": 2, "id": 3, "parameters": 4, "inputs": 5, "outputs": 6, "raw_input_contents": 7},
        "ModelInferResponse": {"model_name": 1, "model_version": 2, "id": 3, "parameters": 4, "outputs": 5, "raw_output_contents": 6},
        "InferParameter": {"bool_param": 1, "int64_param": 2, "string_param": 3, "double_param": 4, "uint64_param": 5},
        "InferTensorContents": {
            "bool_contents": 1, "int_contents": 2, "int64_contents": 3, "uint_contents": 4, "uint64_contents": 5,
            "fp32_contents": 6, "fp64_contents": 7, "bytes_contents": 8,
        },
        "ModelMetadataResponse": {"name": 1, "versions": 2, "platform": 3, "inputs": 4, "outputs": 5},
        "ServerMetadataResponse": {"name": 1, "version": 2, "extensions": 3},
        "RepositoryIndexRequest": {"repository_name": 1, "ready": 2},
        "RepositoryIndexResponse": {"models": 1},
        "RepositoryModelLoadRequest": {"repository_name": 1, "model_name": 2, "parameters": 3},
        "RepositoryModelUnloadRequest": {"repository_name": 1, "model_name": 2, "parameters": 3},
    }
    messages = service_pb2.DESCRIPTOR.message_types_by_name
    for name, fields in expected.items():
        found = {field.name: field.number for field in messages[name].fields}
        assert found == fields, (name, found)


def check_samples():
    """The manifest against the fields of KServe's ServingRuntime (serving.kserve.io/v1alpha1), the configuration against Triton's messages."""
    manifest = yaml.safe_load((SAMPLES / "servingruntime.yaml").read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("serving.kserve.io/v1alpha1", "ServingRuntime")
    known = {"annotations", "containers", "labels", "multiModel", "nodeSelector", "protocolVersions", "supportedModelFormats", "tolerations", "volumes"}
    spec = manifest["spec"]
    assert set(spec) <= known and spec["containers"], set(spec) - known
    for form in spec["supportedModelFormats"]:
        assert form["name"] and set(form) <= {"name", "version", "autoSelect", "priority"}
    assert set(spec["protocolVersions"]) <= {"v1", "v2", "grpc-v1", "grpc-v2"}
    # KServe gives storage to the container of this name.
    assert [container["name"] for container in spec["containers"]] == ["kserve-container"]

    for folder in (SAMPLES / "model_repository").iterdir():
        config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
        assert config.name == folder.name
        assert any(version.name.isdigit() for version in folder.iterdir() if version.is_dir())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", required=True, help="the program sliderun-serve")
    parser.add_argument("--sliderun", required=True, help="the program sliderun")
    parser.add_argument("--plan", required=True, help="the plan of an encoder")
    arguments = parser.parse_args()
    check_messages()
    check_samples()
    with serve(arguments.serve, arguments.plan) as (http, grpc):
        with tritonclient.http.InferenceServerClient(http) as client:
            metadata = client.get_model_metadata("model")
        inputs = [tensor["name"] for tensor in metadata["inputs"]]
        assert all(tensor["datatype"] == "INT64" and tensor["shape"] == [-1, -1] for tensor in metadata["inputs"]), metadata
        tensors = draw(inputs, 3, 17, 0)
        outputs = [tensor["name"] for tensor in metadata["outputs"]]
        expected = run(arguments.sliderun, arguments.plan, tensors, outputs)
        check(tritonclient.http, http, expected, tensors)
        check(tritonclient.grpc, grpc, expected, tensors)
    pads = [option for name in inputs for option in ("--pad", f"{name}=0")]
    with serve(arguments.serve, arguments.plan, "--max-delay", "20ms", *pads) as (http, _):
        worst = check_together(http, arguments.sliderun, arguments.plan, inputs, outputs)
    print(f"tritonclient: answers over HTTP and gRPC equal those of sliderun run; padded and batched they differ by at most {worst:.1e}")


if __name__ == "__main__":
    main()
