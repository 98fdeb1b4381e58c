"""Tensors of the Open Inference Protocol, in JSON and in the binary tensor extension.

Source: the Open Inference Protocol's REST specification, and Triton's "Binary Tensor Data Extension". Values are
little-endian and row-major; an element of BYTES is its length in four bytes and then its bytes.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod

import numpy as np
from numpy.typing import NDArray

from core.contract import Contract
from core.errors import Fault, RequestRejected, show_value
from serving.number_arrays import MAX_DIMENSIONS, MAX_FAULTS, flatten, reject

DTYPES: Mapping[str, np.dtype[np.generic]] = {
    "BOOL": np.dtype("?"),
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
}
BYTES = "BYTES"

_KINDS: Mapping[str, set[type]] = {"b": {bool}, "i": {int}, "u": {int}, "f": {int, float}}
_MAX_VALUES = 2**31
_LENGTH = struct.Struct("<I")
_SHARED_MEMORY = "shared_memory_region"


@dataclass(frozen=True)
class Tensor:
    """One input: numbers of the named datatype, or for BYTES text, both of `shape`."""

    name: str
    shape: tuple[int, ...]
    numbers: NDArray[np.generic] | None
    text: list[str]


def read_tensors(contract: Contract, inputs: object, blob: bytes) -> list[Tensor]:
    """The inputs of a request, those with `binary_data_size` from `blob`, in order; raises RequestRejected."""
    if not isinstance(inputs, list) or not inputs:
        raise reject(contract, "inputs", show_value(inputs), "a list of tensors is expected")
    tensors: list[Tensor] = []
    offset = 0
    for number, given in enumerate(inputs):
        where = f"inputs[{number}]"
        if not isinstance(given, dict):
            raise reject(contract, where, show_value(given), "a tensor is expected, an object")
        size = _find_binary_size(contract, where, given, len(blob) - offset)
        content = None if size is None else blob[offset : offset + size]
        offset += size or 0
        tensors.append(_read_tensor(contract, where, given, content))
    if offset != len(blob):
        rule = f"the inputs' binary_data_size add up to {offset}"
        raise reject(contract, "body", f"{len(blob)} bytes after the JSON", rule)
    return tensors


def _find_binary_size(contract: Contract, where: str, given: Mapping[str, object], left: int) -> int | None:
    parameters = given.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise reject(contract, f"{where}.parameters", show_value(parameters), "an object is expected")
    if _SHARED_MEMORY in parameters:
        raise reject(contract, f"{where}.parameters", _SHARED_MEMORY, "tensors are sent in the body")
    size = parameters.get("binary_data_size")
    if size is None:
        return None
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= left:
        rule = f"the number of the tensor's bytes is expected, and {left} are left in the body"
        raise reject(contract, f"{where}.parameters.binary_data_size", show_value(size), rule)
    return size


def _read_tensor(contract: Contract, where: str, given: Mapping[str, object], content: bytes | None) -> Tensor:
    name, datatype = given.get("name"), given.get("datatype")
    if not isinstance(name, str):
        raise reject(contract, f"{where}.name", show_value(name), "a name is expected")
    if not isinstance(datatype, str) or datatype not in (*DTYPES, BYTES):
        rule = f"one of {', '.join(DTYPES)} and {BYTES} is expected"
        raise reject(contract, f"{where}.datatype", show_value(datatype), rule)
    shape = _read_shape(contract, where, given.get("shape"))
    if content is not None:
        if "data" in given:
            raise reject(contract, where, "data and binary_data_size", "one of the two is expected")
        if datatype == BYTES:
            return Tensor(name, shape, None, _split_bytes(contract, where, content, prod(shape)))
        return Tensor(name, shape, _read_binary(contract, where, content, DTYPES[datatype], shape), [])
    values, received = flatten(contract, f"{where}.data", given.get("data"))
    if received != shape and received != (prod(shape),):
        raise reject(contract, f"{where}.data", f"{list(received)} values", f"the shape {list(shape)} is expected")
    if datatype == BYTES:
        return Tensor(name, shape, None, _check_text(contract, where, values))
    return Tensor(name, shape, _convert(contract, where, datatype, values).reshape(shape), [])


def _read_shape(contract: Contract, where: str, shape: object) -> tuple[int, ...]:
    sizes = shape if isinstance(shape, list) else []
    is_shape = all(isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in sizes)
    # Beside a size of 0 the others could be as large as they like, which no array can be.
    if not 1 <= len(sizes) <= MAX_DIMENSIONS or not is_shape or prod(size or 1 for size in sizes) > _MAX_VALUES:
        rule = f"1 to {MAX_DIMENSIONS} sizes are expected, the batch first"
        raise reject(contract, f"{where}.shape", show_value(shape), rule)
    return tuple(sizes)


def _read_binary(
    contract: Contract, where: str, content: bytes, dtype: np.dtype[np.generic], shape: tuple[int, ...]
) -> NDArray[np.generic]:
    if len(content) != prod(shape) * dtype.itemsize:
        rule = f"{prod(shape) * dtype.itemsize} are expected for the shape {list(shape)}"
        raise reject(contract, where, f"{len(content)} bytes", rule)
    if dtype.kind == "b":
        # Any other byte is no truth value, and numpy would keep it as it is.
        return np.asarray(np.frombuffer(content, np.uint8) != 0).reshape(shape)
    values: NDArray[np.generic] = np.frombuffer(content, dtype).reshape(shape)
    return values


def _convert(contract: Contract, where: str, datatype: str, values: Sequence[object]) -> NDArray[np.generic]:
    """Numbers of JSON, each checked to be one of the datatype."""
    dtype = DTYPES[datatype]
    kinds = _KINDS[dtype.kind]
    low, high = _find_range(dtype)
    bad = (
        at
        for at, value in enumerate(values)
        if type(value) not in kinds or (isinstance(value, int) and not low <= value <= high)
    )
    faults = [
        Fault(f"{where}.data[{at}]", show_value(values[at]), f"a value of {datatype} is expected")
        for at in islice(bad, MAX_FAULTS)
    ]
    if faults:
        raise RequestRejected(contract.model, faults)
    if dtype.kind == "f":
        # Wider than the datatype, so that what it cannot hold is refused as it was sent.
        return np.array(values, dtype=np.float64)
    return np.array(values, dtype=dtype)


def _find_range(dtype: np.dtype[np.generic]) -> tuple[float, float]:
    if dtype.kind not in "iu":
        return -np.inf, np.inf
    bits = dtype.itemsize * 8 - (dtype.kind == "i")
    return (-(2**bits) if dtype.kind == "i" else 0), 2**bits - 1


def _split_bytes(contract: Contract, where: str, content: bytes, count: int) -> list[str]:
    parts: list[bytes] = []
    at = 0
    while at + _LENGTH.size <= len(content) and len(parts) < count:
        (length,) = _LENGTH.unpack_from(content, at)
        at += _LENGTH.size
        parts.append(content[at : at + length])
        at += length
    if at != len(content) or len(parts) != count:
        raise reject(contract, where, f"{len(content)} bytes", f"{count} elements with their lengths are expected")
    try:
        return [part.decode() for part in parts]
    except UnicodeDecodeError:
        raise reject(contract, where, "bytes", "text in UTF-8 is expected") from None


def _check_text(contract: Contract, where: str, values: Sequence[object]) -> list[str]:
    text = [value for value in values if isinstance(value, str)]
    if len(text) != len(values):
        raise reject(contract, f"{where}.data", "values that are not text", "text is expected for BYTES")
    return text
