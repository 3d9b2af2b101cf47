"""Labelled images: data sets by name or from Python, their training, validation and test splits, their batches."""

from deepreduce.data.arrays import ArraySplit, ImageArrays
from deepreduce.data.images import Augmentation, DataFacts, ImageData, Images, RawData, Split, Standardisation
from deepreduce.data.loaders import ImageItems, LoaderSplit
from deepreduce.data.prepare import Preparation, prepare
from deepreduce.data.python import raw_from_python
from deepreduce.data.sources import DATASETS, known_facts, load_source

__all__ = [
    "DATASETS",
    "ArraySplit",
    "Augmentation",
    "DataFacts",
    "ImageArrays",
    "ImageData",
    "ImageItems",
    "Images",
    "LoaderSplit",
    "Preparation",
    "RawData",
    "Split",
    "Standardisation",
    "known_facts",
    "load_source",
    "prepare",
    "raw_from_python",
]
