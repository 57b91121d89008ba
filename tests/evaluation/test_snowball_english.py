from __future__ import annotations

import pytest

from pixelllm_hf.evaluation.snowball_english import stem

# words and stems printed by the stemmer inside METEOR's jar, one or more for every rule
STEMS = """
skies sky|dying die|news news|inning inning|innings inning|proceeds proceed|caresses caress|ties tie|cries cri
gaps gap|gas gas|kiwis kiwi|this this|bus bus|agreed agre|feed feed|hopped hop|hoping hope|falling fall|filing file
luxuriated luxuri|sized size|bled bled|sing sing|happy happi|say say|by by|enjoy enjoy|youth youth|relational relat
conditional condit|rationally ration|generously generous|communism communism|arsenal arsenal|valenci valenc
hesitanci hesit|digitizer digit|conformably conform|radically radic|differently differ|vilely vile|analogously analog
vietnamization vietnam|operator oper|feudalism feudal|decisiveness decis|hopefulness hope|callousness callous
formality formal|sensitivity sensit|sensibility sensibl|geology geolog|recklessly reckless|triplicate triplic
formative format|formalize formal|electrical electr|goodness good|revival reviv|allowance allow|inference infer
airliner airlin|adjustable adjust|irritant irrit|replacement replac|adjustment adjust|dependent depend|adoption adopt
communication communic|activate activ|bowdlerize bowdler|probate probat|rate rate|cease ceas|controlling control
rolled roll|dog's dog|dogs' dog|'tis tis|a a|is is
"""


@pytest.mark.parametrize("pair", STEMS.replace("\n", "|").strip("|").split("|"))
def test_stems_are_those_of_the_jar(pair):
    word, expected = pair.split()
    assert stem(word) == expected
