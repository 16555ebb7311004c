"""The words by which responses state, deny and doubt an answer, language by language: general knowledge, no data."""

from __future__ import annotations

from collections.abc import Iterable


def either(phrases: Iterable[str]) -> str:
    """A pattern for any of some phrases, which may be patterns; the longer ones first."""
    return "(?:" + "|".join(sorted(phrases, key=len, reverse=True)) + ")"


ANSWER = ("answer", "correct option", "correct choice", "correct statement")
"""English stems; a form of "be" or a colon follows."""

RESULT = ("solution", "result", "final value")
"""These name steps on the way as well, so they count in the last sentence only."""

ANSWER_ELSEWHERE = (
    *("réponse", "reponse", "résultat final", "respuesta", "resultado final", "resposta", "risposta", "antwort"),
    *("lösung", "ergebnis", "antwoord", "ответ", "відповідь", "odpowied", "odpověď", "odpoveď", "отговор", "odgovor"),
    *("cevap", "yanıt", "svar", "vastaus", "απάντηση", "válasz", "răspuns", "đáp án", "đáp số", "trả lời", "jawaban"),
    *(
        "jawapan",
        "sagot",
        "jibu",
        "정답",
        "답",
        "答え",
        "正解",
        "解答",
        "答案",
        "答：",
        "答:",
        "结果",
        "結果",
        "正确选项",
    ),
    *("الجواب", "الإجابة", "إجابة", "الناتج", "جواب", "پاسخ", "उत्तर", "জবাব", "উত্তর", "คำตอบ", "התשובה"),
    *("సమాధానం", "பதில்", "விடை", "ഉത്തരം", "ಉತ್ತರ", "જવાબ", "ਜਵਾਬ"),
)

IS = (
    *("is", "are", "was", "equals", "would be", "should be", "will be", "must be", "has to be", "can only be"),
    *("comes to", "comes out to", "come to", "turns out to be"),
)
IS_ELSEWHERE_LATIN = (
    *("est", "sont", "es", "son", "é", "são", "è", "sono", "ist", "lautet", "beträgt", "är", "er", "on", "jest", "je"),
    *("este", "είναι", "равен", "равна", "равно", "это", "là", "adalah", "ialah", "ni"),
)
IS_ELSEWHERE = ("是", "为", "為", "は", "が", "은", "는", "이", "가", "هو", "هي", "है", "हैं", "হল", "হলো", "คือ")

FILLERS = (
    *("therefore", "thus", "then", "simply", "just", "exactly", "hence", "indeed", "clearly", "definitely"),
    *("certainly", "probably", "most likely", "likely", "for sure", "obviously", "also", "still", "is", "are"),
    *("option", "choice", "letter", "given by", "equal to", "the (?:number|value|letter|option|choice)"),
    *("donc", "alors", "igual a", r"(?:de|von)(?=\s\d)"),
)
REASONS = ("because", "since", "as", "so", "which", "and not", "not", "where")

OR = ("or", "ou", "oder", "o", "или")
AND = ("and", "et", "und", "y", "e", "и")
OR_ELSEWHERE = ("或者", "或", "または")
AND_ELSEWHERE = ("和", "及", "与", "、")

CLAUSES = (
    *("because", "since", "therefore", "so", "but", "hence", "thus", "parce", "car", "donc", "mais", "porque", "pero"),
    *("weil", "aber", "also", "так как", "поэтому"),
)
CLAUSES_ELSEWHERE = ("因为", "所以", "因此", "但")

DENIALS = (
    *("not", "never", "neither", "nor", "cannot", "without", "except", "excluding", "eliminate[ds]?", "eliminating"),
    *("rules? out", "ruled out", "ruling out", "exclude[ds]?", "rather than", "instead of", "unlike", "wrong"),
    *("incorrect", "false", "reject(?:ed|s)?", "discard(?:ed|s)?", "non", "pas", "ni", "plutôt que", "nicht", "kein"),
    *("keine", "weder", "noch", "não", "nem", "no", "niet", "geen", "не", "ни", "nie"),
)
DENIALS_ELSEWHERE = (
    *("不是", "不对", "不选", "不可能", "不能", "并非", "而非", "非", "排除", "错误", "ليس", "لا", "नहीं", "아니"),
)
DENIALS_AFTER = (
    *("wrong", "incorrect", "false", "not", "ruled out", "eliminated", "excluded", "out", "impossible", "invalid"),
)
DENIALS_AFTER_ELSEWHERE = (
    *(r"(?:isn|aren|doesn|can|couldn|won)['’]t", "cannot", "does not", "do not", "est faux", "est incorrecte?"),
    *("ist falsch", "es incorrect[ao]", "is fout", "不对", "不正确", "错误", "错", "不符合", "是错", "ではない"),
    *("は誤り", "는 아니", "은 아니", "неверн"),
)

ADVERBIALS = (
    *("in", "within", "after", "during", "with", "before", "until", "since", "every", "d['’]ici", "en", "dans"),
    *("pendant", "après", "avec", "dentro de", "después de", "durante", "con", "innerhalb von", "nach", "während"),
    *("mit", "binnen", "через", "за", "dopo", "entro", "após", "depois de"),
)
"""A number after one of these is a time or a means rather than what is asked for."""

_FAILING = "determin|find|found|solv|answer|say|said|tell|know|comput|calculat|conclud|decid"
DOUBTS = (
    *("may be", "might", "maybe", "perhaps", "possibly", "could be", "not sure", "unsure", "uncertain", "hmm"),
    *("(?:i|my) guess", "let me guess", "don['’]?t know", "do not know", "unclear", "wrong", "incorrect", "wait[,.!]"),
    *("peut-être", "quizás", "vielleicht"),
    rf"(?:cannot|can['’]?t|unable to|not able to|could not|couldn['’]?t) (?:be )?(?:{_FAILING})[a-z]*",
)
DOUBTS_ELSEWHERE = ("不知道", "不确定", "可能", "也许", "无法")
