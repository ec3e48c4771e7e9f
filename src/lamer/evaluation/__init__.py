"""Free-form and log-likelihood evaluation, with paired statistics."""

from lamer.evaluation.benchmarks import Sample, load_samples
from lamer.evaluation.evaluate import predict
from lamer.evaluation.extraction import extract_answer, is_correct
from lamer.evaluation.paired import Comparison, compare
from lamer.evaluation.statistics import Summary, holm, summarize

__all__ = [
    "Comparison",
    "Sample",
    "Summary",
    "compare",
    "extract_answer",
    "holm",
    "is_correct",
    "load_samples",
    "predict",
    "summarize",
]
