r"""Where a generated text goes on with a turn that it invents, as a model does that does not stop: it is cut there.

Five ways to tell, one table each: the marks of chat templates (`<|im_end|>`, `[INST]`); a line that is a role, and a
role glued to what was said, which is what is left of such marks once special tokens are dropped ("user", "24user");
labels at the beginning of a line or behind a sentence (`Question:`, `### Human:`); the opening of an LLM-Adapters
instruction; and, once the text has answered, labels that a solution may have too (`Example 2:`, `Quiz:`). A mark or a
label that nothing stands before cuts nothing. A text may speak of users: a role within a sentence, a role among lines
of one word, and `User: 5` among lines of numbers are no turns.
"""

import re

from expert_condenser.evaluation.answers.answered import answered_at, is_bare_answer

_IN_BARS = (
    *(
        "im_start",
        "im_end",
        "im_sep",
        "endoftext",
        "end_of_text",
        "begin_of_text",
        "startoftext",
    ),  # ChatML
    *("user", "User", "USER", "human", "Human", "HUMAN", "system", "System", "assistant", "Assistant", "observation"),
    *("end", "start", "return", "call"),  # Phi, gpt-oss
    *("eot_id", "eom_id", "start_header_id", "end_header_id", "eot", "header_start", "header_end"),  # Llama
    *("START_OF_TURN_TOKEN", "END_OF_TURN_TOKEN", "USER_TOKEN", "CHATBOT_TOKEN", "SYSTEM_TOKEN"),  # Cohere
    *(
        "start_of_role",
        "end_of_role",
        "endofturn",
        "end_of_turn",
        "role_end",
        "end_of_sentence",
    ),  # Granite, EXAONE
    *("user_start", "user_end", "assistant_start", "assistant_end", "system_start", "system_end"),  # Apertus
    *("begin", "user_begin", "assistant_begin", "bot", "bos", "eos", "pad"),
)
MARKS = (
    rf"<\|(?:{'|'.join(_IN_BARS)})\|>",
    r"<[｜|](?:User|Assistant|begin▁of▁sentence|end▁of▁sentence|EOT)[｜|]>",  # noqa: RUF001, DeepSeek's own bars
    r"\[/?INST\]|<</?SYS>>|\[/?SYSTEM_PROMPT\]|</?s>|<(?:bos|eos|pad)>",  # Mistral, Llama 2
    r"<(?:start|end)_of_turn>|<\|turn>|<turn\|>",  # Gemma
    r"\[\|(?:user|assistant|system|endofturn|Human|AI)\|\]",  # EXAONE, ChatGLM's kin
    r"<extra_id_\d>|<SPECIAL_\d+>|<role>|</role>|<human>:|<bot>:",  # Nemotron, Ling, GPT-JT
)
TURN_MARK = re.compile("|".join(MARKS))
_ROLES = "user|human|assistant|system|model"
_LEADING = re.compile(rf"(?:\s*(?:{TURN_MARK.pattern})(?:(?:{_ROLES})(?=\s|<))?)+")
_OTHER_ROLE = r"(?:system|System|SYSTEM|assistant|Assistant)[ \t]*(?:\n|\Z)(?!\W*[A-Za-z]+[ \t]*(?:\n|\Z))"
ROLE_LINES = (
    # Left of <|im_start|>user and of <|start_header_id|>user without special tokens, and the words of base models.
    r"^(?:user|human|User|Human|USER|HUMAN)[ \t]*(?:\n|\Z)(?!\W*[A-Za-z]+[ \t]*(?:\n|\Z))",
    r"(?:(?<=[\d.!?)\]}$*%])(?:user|system)|(?<=[\w.!?)\]}$*%])assistant)\n\n",
    # A line of prose may be that word, in `the\nsystem\n`, but not behind a sentence.
    rf"(?:(?<=[\d.!?)\]}}$*%]\n)|(?<=[\d.!?)\]}}$*%]\n\n)){_OTHER_ROLE}",
    r"(?<=[\d.!?)\]}$*%])[ \t]*(?:Human|HUMAN|User|USER|Question)[ \t]*:",
)
LABELS = (
    r"(?:Q|Question|Problem|Instruction|Human|User|USER|HUMAN)(?:[ \t]*\d+)?\**[ \t]*:",
    r"(?:(?:Next|New|Another|Follow-?up)[ \t]+[Qq]uestion)\**[ \t]*:",
    r"(?:问题|問題|题目|題目|用户|用戶|질문|사용자|Вопрос|Пользователь|Pregunta|Usuario|Pergunta|Usuário|Frage|Benutzer"
    r"|Utilisateur|Domanda|Utente)\**[ \t]*:",
    r"\[(?:Question|Problem|Instruction|User|Human|Q|问题|問題|题目|題目)(?:[ \t]*\d+)?\][ \t]*:?",
    r"Please[ ](?:choose[ ]the[ ]correct|answer[ ]the[ ]following)",
)
LABELS_AFTER_AN_ANSWER = (
    r"(?:Examples?|Exercise|Quiz|Follow-?[ ]?[Uu]p|Task|Practice|Challenge|Bonus|Scenario|Puzzle|Sample"
    r"|例题|例題|例|练习|練習|习题|習題|예제|연습|Beispiel|Aufgabe|Ejemplo|Ejercicio|Exemple|Exercice|Exemplo|Esempio"
    r"|Пример|Задача)(?:[ \t]*\#?\d+)?\**[ \t]*:",
    rf"^{_OTHER_ROLE}",
)
"""Words that a solution has too, before it answers: it may work through examples."""
_HEADINGS = r"^\#{2,}[ \t]*(?:Instruction|Human|User|Question|Input|Problem|System)s?\**[ \t]*(?:\n|\Z)"
_AT = r"(?:^|(?<=[.!?)\]}]))[ \t]*(?:\#+[ \t]*|\*\*)?"
RUN_ON = re.compile(
    "|".join(
        [
            *(TURN_MARK.pattern, *ROLE_LINES, _HEADINGS),
            rf"{_AT}(?:(?P<label>{'|'.join(LABELS)})|(?P<later>{'|'.join(LABELS_AFTER_AN_ANSWER)}))",
        ]
    ),
    re.MULTILINE,
)
_SOMETHING = re.compile(r"[^ \t\n#*]")
_COUNT = re.compile(r"\W*\w+[ \t]*:[ \t]*[-$]?\d[\d.,]*[ \t]*\w*[ \t]*")
"""A line such as `Admin: 3 posts`."""


def up_to_mark(text: str) -> slice:
    """What of a text stands before the first mark of a turn; marks at its beginning are left out."""
    start = _leading(text)
    mark = TURN_MARK.search(text, start)
    return slice(start, mark.start() if mark else len(text))


def up_to_run_on(text: str) -> slice:
    """What of a text stands before the first invented turn; marks at its beginning are left out."""
    start = _leading(text)
    something = _SOMETHING.search(text, start)
    first = something.start() if something else len(text)
    answered = None
    for found in RUN_ON.finditer(text, start):
        at = found.start()
        if first >= at or (found["label"] and _among_counts(text, at)):
            continue
        if found["later"]:
            answered = answered_at(text, start) if answered is None else answered  # once: a label may come often
            if at < answered and not (text[at - 1] == "\n" and is_bare_answer(text, first, at)):
                continue
        return slice(start, at)
    return slice(start, len(text))


def _leading(text: str) -> int:
    leading = _LEADING.match(text)
    return leading.end() if leading else 0


def _among_counts(text: str, at: int) -> bool:
    """Whether the line at this place is a label with a number, and the line above it another one."""
    if at == 0 or text[at - 1] != "\n":
        return False
    above, here = text[max(0, at - 100) : at - 1], text[at : at + 100]
    return bool(_COUNT.fullmatch(above.rpartition("\n")[2]) and _COUNT.fullmatch(here.partition("\n")[0]))
