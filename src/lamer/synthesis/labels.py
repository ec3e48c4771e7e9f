"""What teachers call the fields of an example, in the languages they write (pure).

A name is found where it stands with a colon, `Question:` or `问题：`. At the start of a line any name counts;
inside a line only the plain ones, capitalised, because running text holds the others ("for one reason: ...").
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

Field = Literal["question", "options", "answer", "explanation"]

_NAMES: dict[Field, str] = {
    "question": (
        "question | 问题 | 問題 | 题目 | 題目 | 質問 | 질문 | 문제 | Frage | Pregunta | Domanda | "
        "Pergunta | Questão | Vraag | Вопрос | Питання | Pytanie | Soru | السؤال | سؤال | प्रश्न | "
        "Câu hỏi | Pertanyaan | Soal"
    ),
    "options": (
        "options | option | choices | candidate options | answer options | answer choices | 选项 | "
        "選項 | 候选项 | 備選項 | 選択肢 | 선택지 | 보기 | 옵션 | Optionen | Antwortmöglichkeiten | "
        "Antwortoptionen | Auswahl | Choix | Opciones | Alternativas | Opzioni | Scelte | Opções | "
        "Opties | Keuzes | Варианты | Варианты ответа | Варианты ответов | Варіанти | Opcje | "
        "Seçenekler | Şıklar | الخيارات | विकल्प | Lựa chọn | Các lựa chọn | Pilihan | Opsi"
    ),
    "answer": (
        "answer | correct answer | right answer | correct option | 答案 | 正确答案 | 正確答案 | "
        "正确选项 | 答え | 正解 | 回答 | 정답 | 답 | 답변 | Antwort | Richtige Antwort | "
        "Korrekte Antwort | Réponse | Bonne réponse | Réponse correcte | La bonne réponse | Respuesta | "
        "Respuesta correcta | Risposta | Risposta corretta | Resposta | Resposta correta | Antwoord | "
        "Juiste antwoord | Ответ | Правильный ответ | Відповідь | Odpowiedź | Poprawna odpowiedź | "
        "Cevap | Yanıt | Doğru cevap | الإجابة | الجواب | الإجابة الصحيحة | उत्तर | सही उत्तर | Đáp án | "
        "Trả lời | Jawaban"
    ),
    "explanation": (
        "explanation | solution | rationale | reasoning | reason | 解释 | 解釋 | 解析 | 说明 | 說明 | "
        "理由 | 解答 | 説明 | 解説 | 설명 | 해설 | 풀이 | Erklärung | Begründung | Erläuterung | "
        "Lösung | Lösungsweg | Explication | Justification | Explicación | Justificación | Solución | "
        "Razonamiento | Spiegazione | Soluzione | Explicação | Justificativa | Solução | Uitleg | "
        "Verklaring | Oplossing | Объяснение | Пояснение | Решение | Пояснення | Wyjaśnienie | "
        "Rozwiązanie | Uzasadnienie | Açıklama | Çözüm | الشرح | التفسير | التوضيح | व्याख्या | "
        "स्पष्टीकरण | Giải thích | Lời giải | Penjelasan | Pembahasan"
    ),
}
_INLINE = (
    "Question | Options | Answer | Correct Answer | Explanation | Solution | 问题 | 問題 | 题目 | "
    "選択肢 | 选项 | 選項 | 答案 | 正确答案 | 答え | 正解 | 解释 | 解釋 | 解析 | 解説 | 説明 | 질문 | "
    "문제 | 선택지 | 보기 | 정답 | 설명 | 해설 | Frage | Optionen | Antwort | Erklärung | Lösung | "
    "Choix | Réponse | Explication | Pregunta | Opciones | Respuesta | Explicación | Solución | "
    "Domanda | Opzioni | Risposta | Spiegazione | Pergunta | Opções | Resposta | Explicação | Вопрос | "
    "Варианты | Варианты ответа | Ответ | Объяснение | Решение"
)


def key(name: str) -> str:
    """A name as it is compared: case, Unicode form, `_` and `-` aside."""
    folded = unicodedata.normalize("NFKC", name).casefold().replace("_", " ").replace("-", " ")
    return " ".join(folded.split()).strip(" :*#.0123456789")


FIELDS: dict[str, Field] = {key(name): field for field, names in _NAMES.items() for name in names.split(" | ")} | {
    "question text": "question",
    "stem": "question",
    "prompt": "question",
}
"""Field by the `key` of its name. The last ones occur as keys of JSON objects."""
FIELDS |= {"correct": "answer", "correct choice": "answer", "correct letter": "answer", "answer letter": "answer"}


def field_of(name: str) -> Field | None:
    """The field that a name stands for, or None."""
    return FIELDS.get(key(name))


INLINE_NAMES = "|".join(sorted(map(re.escape, _INLINE.split(" | ")), key=len, reverse=True))
"""Regular expression for names inside a line, as they are capitalised."""
EXAMPLE_NAMES = (
    "example|item|示例|例子|例题|例|예시|beispiel|exemple|ejemplo|esempio|exemplo|voorbeeld|пример|Пример"
)
"""What a numbered heading above an example says."""
