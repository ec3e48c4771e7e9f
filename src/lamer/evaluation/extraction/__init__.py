"""From a free reply to an answer: of several options, a number, a verdict or a short phrase."""

from lamer.evaluation.extraction.extract import extract_answer, is_correct

__all__ = ["extract_answer", "is_correct"]
