"""The words with which a text says that its answer follows, in English and in the languages that models fall into."""

ANSWER_IS = r"""
    \bans(?:wers?)?\b ["']? (?:\s*\([^()\n]*\))? (?:\s+(?:to|for|of|in)\s[^.:=\n]{1,120}?)??
    (?:\s*(?:(?:is|was|are|equals|becomes|(?:would|should|will|must)\s+be|comes\s+(?:out\s+)?to)\b|[:=→])|[ \t]*\n
      |(?:[ ]+-(?=[ ])|[ ]*;)(?=[ ]*\W{0,3}\w+\W{0,3}(?:\n|\Z)))"""
CORRECTION = r"""
    \b(?:actually|wait|sorry|correction|no|rather|instead)\b[,:-]*\s+ (?:it|that|this)(?:'s|\s+is|\s+should\s+be)\b
    | \b(?:actually|wait|sorry|oops|wrong|incorrect|mistaken?|errors?|not\s+(?:right|correct))\b
      (?:(?!\bans(?:wers?)?\b)[^\n]){0,120}? \b(?:it|that|this)\s+should\s+(?:\w+\s+)?be\b(?!\s+at\s+(?:least|most)\b)
    | \bthe\s+(?:correct|corrected|right)\s+(?:value|result|number|total|amount|sum)
      \s*(?:(?:is|was|(?:would|should|must)\s+be)\b|[:=])"""
_NOUNS = (
    *("respuesta", "resposta", r"r[ée]ponse", "risposta", r"r[ăa]spuns(?:ul)?"),
    *("antwort", "antwoord", "svar(?:et)?", "vastaus"),
    *("ответ", "відповідь", "odpowied[źz]", r"odpov[ěe][ďd]", "απάντηση", "válasz"),
    *("cevap", r"yan\u0131t", r"jawaban(?:nya)?", r"đáp\s+án"),
    *("الإجابة", "الجواب", "उत्तर"),
)
_VERBS = r"es|est|é|è|e'|este|ist|lautet|beträgt|is|luidt|är|er|on|это|равен|jest|to|je|είναι|adalah|là|هي|هو|है"
IN_OTHER_LANGUAGES = rf"""
    \b(?:{"|".join(_NOUNS)})\b (?:\s+[^\W\d]+){{0,3}}? (?:\s*[:=;]|\s+-(?=\s)|\s+(?:{_VERBS})(?!\w)(?:\s*:)?)
    | (?:答案|答え|解答|回答|正解|答)\s*(?:应该是|應該是|应为|應為|就是|是|为|為|等于|は|[:=])\s*:?
    | (?:정답|답)\s*(?:은|는|이|:|=)\s*:?"""
