"""infinity's command line with its ONNX engine, or the conversion, in infinity's environment.

python infinity_optimum.py v2 ...                  as infinity_emb
python infinity_optimum.py --convert FROM TO       writes TO/model.onnx beside the tokenizer
"""

import os
import shutil
import sys
from typing import Any

import onnxruntime


def use_own_cores() -> None:
    """Let ONNX Runtime use one thread for each core that this process may use.

    By default it starts a thread for each core of the machine and pins it, which moves a server off
    the cores that taskset gave it.
    """
    session = onnxruntime.InferenceSession
    original = session.__init__

    def init(self: Any, path: Any, sess_options: Any = None, *args: Any, **kwargs: Any) -> None:
        options = sess_options or onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        original(self, path, options, *args, **kwargs)

    session.__init__ = init


def convert(source: str, target: str) -> None:
    """Export the model."""
    from optimum.onnxruntime import ORTModelForFeatureExtraction  # noqa: PLC0415

    shutil.copytree(source, target, dirs_exist_ok=True)
    model = ORTModelForFeatureExtraction.from_pretrained(source, export=True, local_files_only=True)
    model.save_pretrained(target)


if __name__ == "__main__":
    if sys.argv[1] == "--convert":
        convert(*sys.argv[2:])
    else:
        from infinity_emb.cli import cli

        use_own_cores()
        cli()
