"""Files from strangers: what is good is loaded as it is, what is not gives one sentence that names the file."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx.backend.test
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from corpus.arrays import load_arrays, save_arrays
from corpus.folders import read_case
from corpus.inputs import fit, load_inputs, load_outputs
from corpus.models import load_model
from specs.formats import ALL
from specs.rule import UsageError

LIGHT = sorted((Path(onnx.backend.test.__file__).parent / "data" / "light").glob("*.onnx"))


def model(
    body: str = "y = Relu(x)", inputs: str = "float[4] x", outputs: str = "float[4] y", opset: int = 17, extra: str = "", domains: str = ""
) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}{domains}]> g ({inputs}) => ({outputs}) {extra} {{ {body} }}')


def saved(folder: Path, proto: onnx.ModelProto | bytes, name: str = "m.onnx") -> Path:
    path = folder / name
    path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    return path


def refused(path: Path, words: str, **limits: int) -> None:
    with pytest.raises(UsageError) as e:
        load_model(path, **limits)
    assert str(e.value).startswith(str(path)) and words in str(e.value) and str(e.value).isprintable(), str(e.value)


@pytest.mark.parametrize("path", LIGHT, ids=lambda p: p.stem)
def test_real_architectures_load(path: Path) -> None:
    assert load_model(path) == onnx.load(path)


def cyclic() -> onnx.ModelProto:
    m = model("a = Relu(x) b = Add(a, x) y = Neg(b)")
    m.graph.node[0].input[0] = "b"
    return m


def unsorted() -> onnx.ModelProto:
    m = model("a = Relu(x) y = Neg(a)")
    m.graph.node.append(m.graph.node[0])
    del m.graph.node[0]
    return m


def changed(**fields: object) -> onnx.ModelProto:
    m = model()
    for name, value in fields.items():
        setattr(m, name, value)
    return m


def recursive() -> onnx.ModelProto:
    f = helper.make_function(
        "my", "F", ["a"], ["b"], [helper.make_node("F", ["a"], ["b"], domain="my")], [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
    )
    m = model("y = my.F(x)", domains=', "my" : 1')
    m.functions.append(f)
    return m


def with_tensor(**fields: object) -> onnx.ModelProto:
    m = model("y = Add(x, w)")
    t = TensorProto(name="w", data_type=1, dims=[4])
    for name, value in fields.items():
        if isinstance(value, list):
            t.ClearField(name)  # type: ignore[arg-type]
            getattr(t, name).extend(value)
        else:
            setattr(t, name, value)
    m.graph.initializer.append(t)
    return m


BAD: list[tuple[str, Callable[[], onnx.ModelProto | bytes], str]] = [
    ("empty", lambda: b"", "is empty"),
    ("text", lambda: b"hello, this is no model at all", "is not an ONNX model"),
    ("zeros", lambda: bytes(100), "is not an ONNX model"),
    ("truncated", lambda: model("a = Relu(x) b = Sin(a) y = Neg(b)").SerializeToString()[:-9], "cut off"),
    ("no graph", lambda: onnx.ModelProto(ir_version=8), "has no graph"),
    ("no outputs", lambda: changed_graph("output"), "has no outputs"),
    ("no nodes", lambda: changed_graph("node"), "has no nodes"),
    ("cyclic", cyclic, "is cyclic: Add -> Relu -> Add"),
    ("unsorted", unsorted, "before it is made"),
    ("dangling", lambda: model("y = Add(x, z)"), "reads 'z', which nothing makes"),
    ("output not made", lambda: model(outputs="float[4] q"), "output 'q' is made by no node"),
    ("unknown operator", lambda: model("y = Frobnicate(x)"), "is not an operator of opset 17"),
    ("operator of a later opset", lambda: model("y = Gelu(x)"), "it came with opset 20"),
    ("unknown domain", lambda: model("y = acme.Relu(x)", domains=', "acme" : 1'), "unknown domain 'acme'"),
    ("no opset for its domain", lambda: model("y = ai.onnx.ml.Binarizer(x)"), "declares no opset"),
    ("future opset", lambda: model(opset=99), "declares opset 99"),
    ("future IR", lambda: changed(ir_version=99), "has IR version 99"),
    ("no opset", lambda: changed_graph("opset_import"), "declares no opset"),
    ("recursive function", recursive, "function 'F' calls itself"),
    ("wrong type", lambda: model(outputs="int64[4] y"), "is not valid ONNX"),
    ("wrong shape", lambda: model("y = MatMul(x, x)", "float[2,3] x", "float[2,2] y"), "is not valid ONNX"),
    ("unknown attribute", lambda: model("y = Relu<alpha: int = 3>(x)"), "Unrecognized attribute"),
    ("tensor without data", lambda: with_tensor(), "declares shape [4] of float but holds 0 values"),
    ("tensor too short", lambda: with_tensor(raw_data=b"1234"), "(16 bytes) but holds 4 bytes"),
    ("tensor of no type", lambda: with_tensor(data_type=77), "unknown element type 77"),
    ("negative size", lambda: with_tensor(dims=[-4]), "impossible shape"),
    ("10 GB weight", lambda: with_tensor(dims=[50_000, 50_000]), "10.0 GB; the memory limit is 4.3 GB"),
    ("overflowing weight", lambda: with_tensor(dims=[2**62, 2**62, 2**62]), "the memory limit"),
    ("10 GB input", lambda: model(inputs="float[50000,50000] x", outputs="float[50000,50000] y"), "10.0 GB"),
    ("10 GB by Expand", lambda: model("y = Expand(x, s)", "float[1] x", "float[N] y", extra="<int64[1] s = {2500000000}>"), "made by Expand"),
    (
        "10 GB by ConstantOfShape",
        lambda: model("y = ConstantOfShape(s)", "float x", "float[N,M] y", extra="<int64[2] s = {50000, 50000}>"),
        "made by ConstantOfShape",
    ),
]


def changed_graph(field: str) -> onnx.ModelProto:
    m = model()
    (m if field == "opset_import" else m.graph).ClearField(field)  # type: ignore[arg-type]
    return m


@pytest.mark.parametrize(("make", "words"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_models(tmp_path: Path, make: Callable[[], onnx.ModelProto | bytes], words: str) -> None:
    refused(saved(tmp_path, make()), words)


def test_bad_paths(tmp_path: Path) -> None:
    refused(tmp_path / "none.onnx", "no such file")
    refused(tmp_path, "is a folder")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a regular file")
    with (tmp_path / "huge.onnx").open("wb") as f:
        f.truncate(3 << 30)
    refused(tmp_path / "huge.onnx", "2 GB or more")
    refused(saved(tmp_path, model()), "the memory limit is 10 bytes", memory=10)


def test_names_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    m = model("y = Add(x, z)")
    m.graph.node[0].input[1] = "\x1b[2Jz\nsecond line"
    refused(saved(tmp_path, m), "which nothing makes")


def external(folder: Path, location: str, **entries: object) -> Path:
    m = with_tensor(data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        m.graph.initializer[0].external_data.add(key=key, value=str(value))
    return saved(folder, m)


def test_external_data_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(b"skip" + np.arange(4, dtype=np.float32).tobytes())
    loaded = load_model(external(tmp_path, "sub/w.bin", offset=4, length=16))
    assert numpy_helper.to_array(loaded.graph.initializer[0]).tolist() == [0, 1, 2, 3]
    assert not loaded.graph.initializer[0].external_data


def test_bad_external_data(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(16))
    (folder / "short").write_bytes(bytes(15))
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "out").symlink_to(tmp_path)
    (folder / "dir").mkdir()
    refused(external(folder, str(tmp_path / "secret")), "absolute path")
    refused(external(folder, "C:\\secret"), "absolute path")
    refused(external(folder, "../secret"), "outside the model's folder")
    refused(external(folder, "dir/../../secret"), "outside the model's folder")
    refused(external(folder, "link"), "a link that leads outside")
    refused(external(folder, "out/secret"), "a link that leads outside")
    refused(external(folder, "none.bin"), "does not exist")
    refused(external(folder, "dir"), "not a regular file")
    refused(external(folder, "short"), "which has only 15")
    refused(external(folder, "short", length=4), "has length 4")
    refused(external(folder, "short", offset=-3), "not a number of bytes")
    refused(external(folder, ""), "names no file")


def test_arrays_of_every_format_survive(tmp_path: Path) -> None:
    arrays = {f.name: np.array([[1, 0, 1]]).astype(f.numpy) for f in ALL if f.name not in ("string", "float8e8m0")}
    arrays |= {f"{n} scalar": a[0, 0].reshape(()) for n, a in arrays.items()} | {f"{n} none": a[:, :0] for n, a in arrays.items()}
    arrays |= {"file": np.arange(3), "/x:0\n": np.arange(3).astype(">i4"), "text": np.array([["a", "b\0"], ["é", ""]], object)}
    save_arrays(tmp_path / "a.npz", arrays)
    back = load_arrays(tmp_path / "a.npz")
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype and back[name].shape == array.shape and back[name].tolist() == array.tolist(), name
    plain = np.load(tmp_path / "a.npz", allow_pickle=False)
    assert plain["float"].dtype == np.float32 and plain["bfloat16"].dtype == np.uint16


def test_arrays_that_numpy_wrote_are_decoded_by_the_declared_types(tmp_path: Path) -> None:
    x = np.array([1.5, -2], ml_dtypes.bfloat16)
    np.savez(tmp_path / "inputs.npz", x=x, i=np.array([1, 2], ml_dtypes.int4), s=np.array(["a", "b"]))
    m = model("y = Cast<to = 1>(x)", "bfloat16[2] x, int4[2] i, string[2] s", "float[2] y", opset=21)
    back = load_inputs(tmp_path, m)
    assert back["x"].dtype == x.dtype and back["x"].tolist() == x.tolist()
    assert back["i"].tolist() == [1, 2] and back["s"].dtype == object


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    np.savez(tmp_path / "a.npz", x=np.array([Bomb()], object))
    (tmp_path / "b.npz").write_bytes(np.array([Bomb()], object).dumps())
    (tmp_path / "exploded").rmdir() if (tmp_path / "exploded").exists() else None
    for name in ("a.npz", "b.npz"):
        with pytest.raises(UsageError):
            load_arrays(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_bad_arrays(tmp_path: Path) -> None:
    good = tmp_path / "good.npz"
    save_arrays(good, {"x": np.arange(100)})
    data = good.read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[:200])
    with zipfile.ZipFile(tmp_path / "lies.npz", "w") as z:
        z.writestr("x.npy", b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117) + b"\n")
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("x.npy", bytes(50_000_000))
    for name, words in (("cut", "not a complete .npz"), ("lies", "declares shape"), ("bomb", "unpacks to 50.0 MB"), ("none", "no such file")):
        with pytest.raises(UsageError, match=words):
            load_arrays(tmp_path / f"{name}.npz", memory=1_000_000)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "input 'x' is missing"),
        ({"x": np.zeros(4, np.float32), "z": np.zeros(1)}, "the model has no input 'z'"),
        ({"x": np.zeros(4)}, "has type float64, the model declares float"),
        ({"x": np.zeros((4, 1), np.float32)}, "has shape [4, 1], the model declares [4]"),
        ({"x": np.zeros(5, np.float32)}, "has shape [5], the model declares [4]"),
    ],
)
def test_inputs_that_do_not_fit(inputs: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(UsageError) as e:
        fit(model(), inputs)
    assert words in str(e.value)


def test_named_dimensions_must_agree_and_weights_are_no_inputs() -> None:
    m = model("y = Add(a, b)", "float[N] a, float[N] b", "float[N] y")
    assert list(fit(m, {"b": np.zeros(3, np.float32), "a": np.zeros(3, np.float32)})) == ["a", "b"]
    with pytest.raises(UsageError, match="has 4 for dimension 'N', but input 'a' has 3"):
        fit(m, {"a": np.zeros(3, np.float32), "b": np.zeros(4, np.float32)})
    with pytest.raises(UsageError, match="'w' is a weight"):
        fit(with_tensor(raw_data=bytes(16)), {"x": np.zeros(4, np.float32), "w": np.zeros(4, np.float32)})


def test_case_folders(tmp_path: Path) -> None:
    saved(tmp_path, model(), "model.onnx")
    assert read_case(tmp_path).inputs is None
    save_arrays(tmp_path / "inputs.npz", {"x": np.ones(4, np.float32)})
    save_arrays(tmp_path / "outputs.npz", {"y": np.ones(4)})
    (tmp_path / "case.json").write_text('{"id": "1", "origin": {"seed": 3}}')
    found = read_case(tmp_path)
    assert found.case.inputs["x"].tolist() == [1] * 4 and found.outputs is not None and found.origin == {"seed": 3}
    assert load_outputs(tmp_path, found.model)["y"].dtype == np.float64
    with pytest.raises(UsageError, match=r"has no model\.onnx"):
        read_case(tmp_path.parent)
    save_arrays(tmp_path / "outputs.npz", {"q": np.ones(4)})
    with pytest.raises(UsageError, match="output 'y' is missing"):
        read_case(tmp_path)
