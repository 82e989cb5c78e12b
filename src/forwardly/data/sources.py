"""Where the original files of data sets lie, and their checksums; mirrors are tried in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from forwardly.data import originals
from forwardly.data.npz import Arrays


@dataclass(frozen=True)
class Source:
    """A data set's original files.

    Attributes:
        mirrors: addresses of folders that hold the files.
        files: their names, and SHA-256 or MD5 checksums as their publishers or torchvision,
            TensorFlow Datasets and Keras have them.
        read: turns the files, in that order, into the four arrays.
        classes: how many there are.
        validation: how many training samples are put aside unless told otherwise.
    """

    mirrors: tuple[str, ...]
    files: Mapping[str, str]
    read: Callable[[list[Path]], Arrays]
    classes: int
    validation: int = 2000


SOURCES: dict[str, Source] = {
    "mnist": Source(  # LeCun & Cortes
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        files={
            "train-images-idx3-ubyte.gz": "sha256:"
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz": "sha256:"
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte.gz": "sha256:"
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz": "sha256:"
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
        read=originals.idx,
        classes=10,
    ),
    "fashion-mnist": Source(  # Xiao, Rasul & Vollgraf 2017
        mirrors=(
            "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        files={
            "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
        },
        read=originals.idx,
        classes=10,
    ),
    "cifar10": Source(  # Krizhevsky 2009; the binary version, as the other one is a pickle
        mirrors=(
            "https://www.cs.toronto.edu/~kriz/",
            "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/",
            "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets/",
        ),
        files={
            "cifar-10-binary.tar.gz": "sha256:"
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        },
        read=originals.cifar10,
        classes=10,
    ),
    "cifar100": Source(  # Krizhevsky 2009; the 100 fine classes
        mirrors=(
            "https://www.cs.toronto.edu/~kriz/",
            "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets/",
        ),
        files={
            "cifar-100-binary.tar.gz": "sha256:"
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        },
        read=originals.cifar100,
        classes=100,
    ),
}
