"""The package against a plan whose results are known: python test_sliderun.py perceptron.slide [owner.key.pub signed.slide]

The last two are a public key and the plan signed with it, as `slidec keygen` and `slidec sign` make them.
hidden = relu(x·w1 + b), y = hidden·w2 for x: f32[batch, 4], batch in 1..64: the runtime's example `perceptron`.
"""

import ast
import gc
import sys
import threading
import unittest
from pathlib import Path

import numpy as np

import sliderun

PLAN = Path(sys.argv.pop(1)) if len(sys.argv) > 1 else Path(__file__).parents[2] / "runtime/examples/perceptron.slide"
SIGNED = [Path(sys.argv.pop(1)), Path(sys.argv.pop(1))] if len(sys.argv) > 2 else None
W1 = np.array([[1, 0, -1], [0, 2, 0.5], [1, 1, 1], [-2, 0, 1]], np.float64)
B = np.array([0.5, -1, 0])
W2 = np.array([[1, 2], [-1, 1], [0.5, 0.25]], np.float64)


def expected(x):
    hidden = np.maximum(np.asarray(x, np.float64) @ W1 + B, 0)
    return {"y": hidden @ W2, "hidden": hidden}


def rows(count):
    """Small multiples of a quarter, on which every sum is exact in f32."""
    return (np.arange(4 * count, dtype=np.float32).reshape(count, 4) * 7 % 11) / 4 - 1


class Capsule:
    """Speaks DLPack and nothing else."""

    def __init__(self, array, device=None):
        self.array, self.device = array, device

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device or self.array.__dlpack_device__()


class Runs(unittest.TestCase):
    def setUp(self):
        self.session = sliderun.Session(PLAN)

    def check(self, outputs, x):
        self.assertEqual(list(outputs), ["y", "hidden"])
        for name, value in expected(x).items():
            self.assertEqual(outputs[name].dtype, np.float32)
            np.testing.assert_array_equal(outputs[name], value)

    def test_arrays_of_every_layout(self):
        x = rows(5)
        for given in [x, np.asfortranarray(x), np.repeat(x, 2, axis=0)[::2], x.astype(">f4"), list(map(list, x))]:
            given = given if isinstance(given, np.ndarray) else np.array(given, np.float32)
            self.check(self.session.run({"x": given}), x)
        x.flags.writeable = False
        self.check(self.session.run({"x": x}), x)

    def test_dlpack_in_and_out(self):
        x = rows(3)
        self.check(self.session.run({"x": Capsule(x)}), x)
        tensors = self.session.run_tensors({"x": Capsule(x)})
        self.assertEqual((tensors["y"].dtype, tensors["y"].shape, tensors["y"].nbytes), ("f32", (3, 2), 24))
        arrays = {name: np.from_dlpack(tensor) for name, tensor in tensors.items()}
        self.check(arrays, x)
        # No copy: both see the same memory, which outlives the tensor.
        np.testing.assert_array_equal(np.shares_memory(sliderun.to_numpy(tensors["y"]), arrays["y"]), True)
        del tensors
        gc.collect()
        self.check(arrays, x)
        # A tensor is an input too, and a capsule that nobody takes is freed.
        again = self.session.run_tensors({"x": sliderun.from_numpy(x)})
        again["y"].__dlpack__()
        self.assertEqual(again["y"].__dlpack_device__(), (1, 0))
        self.check({name: sliderun.to_numpy(t) for name, t in self.session.run_tensors({"x": Capsule(x)}).items()}, x)

    def test_dlpack_that_does_not_fit_is_refused(self):
        x = rows(4)
        with self.assertRaisesRegex(BufferError, "not in host memory"):
            self.session.run({"x": Capsule(x, (2, 0))})
        with self.assertRaisesRegex(BufferError, "contiguous"):
            self.session.run({"x": Capsule(np.asfortranarray(x))})
        with self.assertRaisesRegex(TypeError, "no element type"):
            self.session.run({"x": Capsule(x.astype(np.complex64))})
        tensor = sliderun.from_numpy(x)
        for options in [{"stream": 1}, {"dl_device": (2, 0)}, {"copy": True}]:
            with self.assertRaises(BufferError):
                tensor.__dlpack__(**options)
        tensor.__dlpack__(stream=None, max_version=(1, 0), dl_device=(1, 0), copy=False)

    def test_every_element_type_goes_there_and_back(self):
        for name in ["bool", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "f16", "f32", "f64"]:
            array = np.array([[0, 1, 1], [1, 0, 1]], sliderun._NUMPY[name])
            tensor = sliderun.from_numpy(array)
            self.assertEqual((tensor.dtype, tensor.shape), (name, (2, 3)))
            for back in [sliderun.to_numpy(tensor), np.from_dlpack(tensor)]:
                self.assertEqual(back.dtype, array.dtype)
                np.testing.assert_array_equal(back, array)
        for shape in [(), (0, 3), (1, 1, 2)]:
            array = np.ones(shape, np.float32)
            for back in [np.from_dlpack(sliderun.from_numpy(array)), sliderun.to_numpy(sliderun.from_numpy(array))]:
                self.assertEqual(back.shape, shape)
                np.testing.assert_array_equal(back, array)
        with self.assertRaisesRegex(TypeError, "complex64"):
            sliderun.from_numpy(np.ones(2, np.complex64))

    def test_small_floats_go_there_and_back(self):
        try:
            import ml_dtypes
        except ImportError:
            self.skipTest("ml_dtypes is not installed")
        for name, dtype in [("bf16", ml_dtypes.bfloat16), ("f8e4m3", ml_dtypes.float8_e4m3fn), ("f8e5m2", ml_dtypes.float8_e5m2)]:
            array = np.array([0.5, -1, 3]).astype(dtype)
            tensor = sliderun.from_numpy(array)
            self.assertEqual(tensor.dtype, name)
            back = sliderun.to_numpy(sliderun.Tensor.from_dlpack(tensor))
            self.assertEqual(back.dtype, array.dtype)
            np.testing.assert_array_equal(back.view(np.uint8), array.view(np.uint8))

    def test_the_session_describes_itself(self):
        self.assertEqual([(p.name, p.dtype, p.shape) for p in self.session.inputs], [("x", "f32", ("batch", 4))])
        self.assertEqual([p.shape for p in self.session.outputs], [("batch", 2), ("batch", 3)])
        self.assertEqual(self.session.symbols, {"batch": (1, 64)})
        self.assertEqual(self.session.output_shapes({"x": (7, 4)}), {"y": (7, 2), "hidden": (7, 3)})
        self.assertEqual(sliderun.Session(PLAN, threads=1).threads, 1)

    def test_wrong_inputs_and_devices_are_errors(self):
        x = rows(1)
        for inputs, reason in [
            ({}, "missing"),
            ({"z": x}, "no input 'z'"),
            ({"x": x.astype(np.float64)}, "f32"),
            ({"x": x[0]}, "f32"),
            ({"x": rows(65)}, "batch = 65 is outside 1..64"),
        ]:
            with self.assertRaisesRegex(ValueError, reason):
                self.session.run(inputs)
        with self.assertRaisesRegex(ValueError, "'tpu' is not a device"):
            sliderun.Session(PLAN, "tpu")
        with self.assertRaises(sliderun.SessionError):
            sliderun.Session(PLAN, "cuda:0")
        with self.assertRaises(MemoryError):
            sliderun.Session(PLAN, memory_limit=1).run({"x": x})

    def test_threads_share_a_session(self):
        failures = []

        def work(count):
            try:
                for _ in range(50):
                    self.check(self.session.run({"x": rows(count)}), rows(count))
            except Exception as error:  # noqa: BLE001: told below
                failures.append(error)

        threads = [threading.Thread(target=work, args=(count,)) for count in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])


class Plans(unittest.TestCase):
    def test_files_and_bytes(self):
        data = PLAN.read_bytes()
        plans = [sliderun.Plan.open(PLAN), sliderun.Plan.open(str(PLAN), mmap=False), sliderun.Plan.from_bytes(data)]
        self.assertEqual({(plan.size, plan.digest) for plan in plans}, {(len(data), plans[0].digest)})
        for plan in plans:
            plan.check()
        np.testing.assert_array_equal(sliderun.Session(data).run({"x": rows(2)})["y"], expected(rows(2))["y"])

    def test_bad_plans_are_refused(self):
        data = bytearray(PLAN.read_bytes())
        for bad in [b"", b"hello", bytes(data[:-1])]:
            with self.assertRaises(sliderun.PlanError):
                sliderun.Plan.from_bytes(bad)
        data[256] ^= 1
        with self.assertRaisesRegex(sliderun.PlanError, "digest"):
            sliderun.Plan.from_bytes(bytes(data)).check()
        with self.assertRaises(FileNotFoundError):
            sliderun.Session("/nowhere/m.slide")


    @unittest.skipUnless(SIGNED, "no signed plan was given")
    def test_signatures_are_required_where_signers_are_given(self):
        owner, signed = SIGNED[0].read_text(), SIGNED[1]
        for plan in [
            sliderun.Plan.open(signed, signers=owner),
            sliderun.Plan.open(signed, mmap=False, signers=owner),
            sliderun.Plan.from_bytes(signed.read_bytes(), signers=owner),
        ]:
            self.assertRegex(plan.signer, "^[0-9a-f]{64}$")
        self.assertIsNone(sliderun.Plan.open(signed).signer)
        with self.assertRaisesRegex(sliderun.PlanError, f"{PLAN.name}: the plan is not signed"):
            sliderun.Plan.open(PLAN, signers=owner)
        with self.assertRaisesRegex(sliderun.PlanError, "not signed"):
            sliderun.Plan.from_bytes(PLAN.read_bytes(), signers=owner)
        with self.assertRaisesRegex(ValueError, "signers: no public Ed25519 key"):
            sliderun.Plan.open(signed, signers="none")


class Stubs(unittest.TestCase):
    def test_stubs_name_what_there_is(self):
        package = Path(sliderun.__file__).parent
        self.assertTrue((package / "py.typed").exists())
        stub = ast.parse((package / "_sliderun.pyi").read_text())
        native = sliderun._sliderun
        classes = {node.name: node for node in stub.body if isinstance(node, ast.ClassDef)}
        public = {name for name in dir(native) if not name.startswith("_") and isinstance(getattr(native, name), type)}
        self.assertEqual(set(classes), public)
        for name, node in classes.items():
            said = {item.name for item in node.body if isinstance(item, ast.FunctionDef)} - {"__init__", "__buffer__"}
            there = {n for n in vars(getattr(native, name)) if not n.startswith("_")}
            self.assertEqual({n for n in said if not n.startswith("_")}, there, name)
            self.assertTrue(all(hasattr(getattr(native, name), n) for n in said), name)


if __name__ == "__main__":
    unittest.main()
