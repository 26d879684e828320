"""The pipeline as an OpenVINO model."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from plainunet.network.card import KEY
from plainunet.prediction.exported import digest_openvino, need


def build_openvino(model: Any, half: bool) -> Callable[[Path, Mapping[str, Any]], None]:
    """Convert an ONNX model; the function writes it as .xml, and the weights as .bin beside it.

    `half` stores weights in fp16. The metadata is JSON in the model's rt_info, with a digest of the
    .bin, which could be that of another model.
    """
    openvino = need("openvino")
    # not convert_model, which may send usage statistics
    converted = openvino.Core().read_model(model.SerializeToString())

    def write(path: Path, metadata: Mapping[str, Any]) -> None:
        openvino.save_model(converted, path, compress_to_fp16=half)  # for the .bin
        stored = {**metadata, "weights": digest_openvino(path)}
        converted.set_rt_info(json.dumps(stored), [KEY])
        openvino.save_model(converted, path, compress_to_fp16=half)

    return write
