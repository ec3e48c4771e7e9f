"""Small real parts to test with: teachers and models served over HTTP, tiny models of real families.

Nothing here is a mock: the server speaks HTTP to the real client, the models are real architectures with
random weights and a tokenizer of their own.

    teacher = QueuedTeacher(["Question: ..."])
    with TeacherServer(teacher.reply, faults=[Fault(status=429, retry_after=0)]) as server:
        client = openai.OpenAI(base_url=server.base_url, api_key="unused")
"""

from __future__ import annotations

from lamer.testing.batch_desk import BatchDesk, BatchFault
from lamer.testing.families import FAMILIES, Family
from lamer.testing.faults import Fault, all_faults, random_faults
from lamer.testing.models import tiny_model, tiny_tokenizer
from lamer.testing.scoring_server import Habits, ScoringServer
from lamer.testing.teacher_server import QueuedTeacher, TeacherServer

__all__ = [
    "FAMILIES",
    "BatchDesk",
    "BatchFault",
    "Family",
    "Fault",
    "Habits",
    "QueuedTeacher",
    "ScoringServer",
    "TeacherServer",
    "all_faults",
    "random_faults",
    "tiny_model",
    "tiny_tokenizer",
]
