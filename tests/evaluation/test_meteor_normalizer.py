from __future__ import annotations

import pytest

from pixelllm_hf.evaluation.meteor_normalizer import normalize


# expectations printed by the jar
@pytest.mark.parametrize(
    ("line", "tokens"),
    [
        ("there is a train. there", "there is a train. there"),
        ("a train. There are", "a train . there are"),
        ("the U.S. flag", "the us flag"),
        ("Mr. Smith at No. 5, not No. one", "mr. smith at no. 5 , not no. one"),
        ("don't, he's, dogs' 1960's", "don 't , he 's , dogs ' 1960 's"),
        ("1,000 cats,dogs, 5,a", "1,000 cats , dogs , 5 , a"),
        ("black-and-white -- left–right", "black and white - left - right"),
        ("wait... what....", "wait ... what ...."),
        ("“hi” ‘you’ ''x''", '" hi " \' you \' " x "'),
        ("$5 (left) #1", "$ 5 ( left ) # 1"),
        ("naïve Ünder", "naïve ünder"),
        ("x\u00a0y\u2003z", "x y z"),
        ("", ""),
        (".", "."),
    ],
)
def test_lines_split_as_in_the_jar(line, tokens):
    assert normalize(line) == tokens.split()
