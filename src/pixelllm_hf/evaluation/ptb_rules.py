"""Penn Treebank tokens of English captions by rules.

The rules give what the Stanford tokenizer 3.4.1 gives and were read off its output; they leave out what captions do
not hold (telephone numbers in brackets, rare smileys and names).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

_SPLIT_WORDS = {
    "cannot": "can not", "gonna": "gon na", "gotta": "got ta", "lemme": "lem me", "gimme": "gim me",
    "wanna": "wan na", "'tis": "'t is", "'twas": "'t was",
}  # fmt: skip
# their dot belongs to them, whatever follows
_ABBREVIATIONS = (
    "adj adm adv al ala apr ariz assn assoc asst atty attys aug ave bancorp bhd bldg blvd brig bros calif cf cie cmdr "
    "co col colo comdr conn corp cos cpl ct dak dec dept det dr drs elec ens esq est etc ext feb fla fri ft ga gen gov "
    "govs hon inc ind insp intl invt jan jos jr jul jun kan kans ky lieut lt ltd maj mar md messrs mfg mich minn mlle "
    "mme mo mon mont mr mrs ms msgr mt mtg natl neb nev nov oct okla penn pfc ph plc prof profs pte pty pvt rd rep rev "
    "rt sen sens sep sept seq sfc sgt spc sq sr st ste supt supts sys tel tenn thu thurs tue tues univ va vs vt wed "
    "wis wisc wm wyo"
).replace(" ", "|")
_CAPITALISED_ABBREVIATIONS = "Ark|AZ|Az|Del|Ill|La|Mass|Miss|Ore|Pa|Tex|Wash"
_BEFORE_NUMBERS = "art|ca|figs?|nos?|op|pp|prop"
_SIGNS = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", "£": "#", "€": "$",
    "¢": "cents", "½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8",
    "⅞": "7/8", "&amp;": "&", "&lt;": "<", "&gt;": ">",
}  # fmt: skip

_RAISED = "²³¹¼½¾⅓⅔⅛⅜⅝⅞⁰-⁹₀-₉"  # alphanumeric for Python, tokens of their own here
_L, _A = rf"[^\W\d_{_RAISED}]", rf"[^\W_{_RAISED}]"  # a letter; a letter or digit
_APOS = "['’]"
_WORD = rf"{_L}{_A}*(?:[.!?]{_L}{_A}*)*"
_PART = rf"(?:[dDoOlL]{_APOS}{_A})?{_A}+"
_THING = rf"{_PART}(?:[-_]{_PART})*"
_URL_END = r"[^ \t\n\f\r\"<>|.!?(){},\-]"


def _pattern(text: str, flags: int = 0) -> re.Pattern[str]:
    return re.compile(text, flags)


def _plain(token: str) -> str:
    return token.replace("’", "'")


def _face(smiley: str) -> str:
    return re.sub(r"[()\[\]{]", lambda bracket: _SIGNS[bracket[0]], smiley)


def _dropped(_: str) -> str:
    return ""


# (pattern, what becomes of it). The longest match wins, the first of equals. With groups, `token` is what is taken
# and `after` only has to follow; both count for the length.
_Action = Callable[[str], str]
_RULES: list[tuple[re.Pattern[str], _Action]] = [
    (_pattern(r"</?[A-Za-z][A-Za-z0-9:.\-]*(?: +[A-Za-z][A-Za-z0-9:.\-]*(?: *= *(?:'[^'\n]*'|\"[^\"\n]*\"))?)* */?>"),
     lambda tag: tag.replace(" ", "\u00a0")),
    (_pattern(rf"(?:cannot|gonna|gotta|lemme|gimme|wanna|{_APOS}tis|{_APOS}twas)(?!{_A})", re.I),
     lambda word: _SPLIT_WORDS[_plain(word).lower()]),
    (_pattern(rf"(?P<token>{_WORD})(?P<after>{_APOS}(?:[msdMSD]|re|ve|ll|RE|VE|LL))"), _plain),
    (_pattern(rf"(?P<token>[A-Za-z]*[A-MO-Za-mo-z])(?P<after>[nN]{_APOS}[tT])"), _plain),
    (_pattern(rf"{_APOS}(?:[msdMSD]|re|ve|ll|RE|VE|LL)(?![A-Za-z])"), _plain),
    (_pattern(rf"[nN]{_APOS}[tT](?![A-Za-z])"), _plain),
    (_pattern(rf"{_APOS}n{_APOS}?(?![A-Za-z.])|[bn]?e{_APOS}er|[ldj]{_APOS}|dunkin{_APOS}|somethin{_APOS}|ol{_APOS}|"
              rf"{_APOS}em|c{_APOS}mon|{_APOS}[2-9]0s|{_APOS}till?|{_APOS}cause|"
              rf"o{_APOS}clock|ma{_APOS}am|hawai{_APOS}i|shi{_APOS}ite", re.I),
     _plain),
    (_pattern(rf"{_APOS}\d\d(?=\s|$)"), _plain),
    (_pattern(rf"(?P<token>[yY]{_APOS})(?P<after>{_L})"), _plain),
    (_pattern(_WORD), _plain),
    (_pattern(_THING), _plain),
    (_pattern(rf"(?P<token>(?:{_THING}|{_WORD})\.)(?P<after>[,;:])"), _plain),  # an abbreviation, or so it looks
    (_pattern(r"[A-Z]+(?:[+&][A-Z]+)+"), _plain),
    (_pattern(r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}"), _plain),
    (_pattern(rf"{_A}[A-Za-z0-9.,]*(?:-(?:[A-Za-z](?:\.[A-Za-z])+\.|[A-Za-z0-9]+))+"), _plain),
    (_pattern(r"[-+]?(?:\d*(?:[.:,]\d+)+|\d+)"), _plain),
    (_pattern(r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}"), _plain),
    (_pattern(r"(?:\d{1,4}[- \u00a0])?\d{1,4}(?:\\?/|\u2044)\d{1,4}"), lambda number: number.replace(" ", "\u00a0")),
    (_pattern(rf"(?:{_ABBREVIATIONS})\.", re.I), _plain),
    (_pattern(rf"(?:{_CAPITALISED_ABBREVIATIONS})\."), _plain),
    (_pattern(rf"(?P<token>(?:{_BEFORE_NUMBERS})\.)(?P<after> ?\d)", re.I), _plain),
    (_pattern(r"[A-Za-z](?:\.[A-Za-z])*\."), _plain),
    (_pattern(rf"https?://[^ \t\n\f\r\"<>|()]+{_URL_END}"), _plain),
    (_pattern(rf"(?:www\.(?:[^ \t\n\f\r\"<>|.!?()" r"{},]+\.)+[a-zA-Z]{2,4}"
              r"|(?:[^ \t\n\f\r\"`'<>|.!?(){},\-_$]+\.)+(?:com|net|org|edu))"
              rf"(?:/[^ \t\n\f\r\"<>|()]+{_URL_END})?(?![A-Za-z])"), _plain),
    (_pattern(r"[a-zA-Z0-9][^ \t\n\f\r\"<>|()\u00a0]*@(?:[^ \t\n\f\r\"<>|().\u00a0]+\.)*[^ \t\n\f\r\"<>|().\u00a0]+"),
     _plain),
    (_pattern(rf"@[a-zA-Z_]\w*|#{_L}+|[cC]\+\+|[cCfF]#"), _plain),
    (_pattern(r"[?!]+|\*+|_+|#+|[A-Z]*\$"), _plain),
    (_pattern(r"-[lr][rcs]b-", re.I), _plain),
    (_pattern(r"(?:[<>]?[:;=][-o*']?[()DPdpO\\{@\[\]]|\^_\^)(?![A-Za-z0-9])"), _face),
    (_pattern(r"[²³¹⁰-⁹₀-₉]+"), _plain),
    (_pattern(r"-+|[–—―]+|\.\.\.|\.|…|''|``|[\"“”`‘’'«»‹›]|[\U00010000-\U0010ffff]"), _dropped),
    (_pattern(r"&(?:amp|lt|gt);"), lambda entity: _SIGNS[entity]),
    (_pattern(r"[^\w\s]|[_½¼¾⅓⅔⅛⅜⅝⅞]"), lambda sign: _SIGNS.get(sign, sign)),
]  # fmt: skip
_SIMPLE = re.compile(r"[A-Za-z]+")


def ptb_tokens(caption: str) -> list[str]:
    """The tokens of one caption by rules, lower case, punctuation that never counts already left out.

    >>> ptb_tokens("He cannot see the half-eaten pizza (left) at 5:30pm!")
    ['he', 'can', 'not', 'see', 'the', 'half-eaten', 'pizza', '-lrb-', 'left', '-rrb-', 'at', '5:30', 'pm', '!']
    """
    return [token for token in _lexed(caption.replace("\n", " ")) if token]


def _lexed(text: str) -> Iterable[str]:
    place = 0
    while place < len(text):
        if text[place].isspace():
            place += 1
            continue
        simple = _SIMPLE.match(text, place)
        if simple and text[simple.end() : simple.end() + 1] in ("", " ") and simple[0].lower() not in _SPLIT_WORDS:
            yield simple[0].lower()
            place = simple.end()
            continue
        best: re.Match[str] | None = None
        reach = -1
        action: _Action = _plain
        for pattern, candidate_action in _RULES:
            match = pattern.match(text, place)
            if match and match.end() > reach:
                best, reach, action = match, match.end(), candidate_action
        if best is None:  # nothing knows this sign
            place += 1
            continue
        token = best["token"] if "token" in best.re.groupindex else best[0]
        yield from action(token).lower().split(" ")
        place += len(token)
