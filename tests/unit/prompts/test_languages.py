"""Scripts and languages, where they are plain."""

from __future__ import annotations

import pytest

from fluxai import PromptAnalyzer


@pytest.mark.parametrize(
    ("prompt", "script", "language"),
    [
        ("What is the difference between the two plans?", "latin", "en"),
        ("¿Cómo se calcula el área de un círculo y por qué?", "latin", "es"),
        ("Quelle est la capitale de la France et que faut-il voir dans la ville ?", "latin", "fr"),
        ("Wie funktioniert die Steuer auf den Lohn und was ist mit der Rente?", "latin", "de"),
        ("Что такое чёрная дыра и как она образуется?", "cyrillic", "ru"),
        ("写一首关于春天的诗", "han", "zh"),
        ("春についての詩を書いてください", "kana", "ja"),
        ("봄에 대한 시를 써 주세요", "hangul", "ko"),
        ("Γράψε ένα ποίημα", "greek", "el"),
        ("اكتب قصيدة عن الربيع", "arabic", None),
        ("xyzzy plugh", "latin", None),
        ("12 + 30 = ?", None, None),
    ],
)
def test_script_and_language(prompt: str, script: str | None, language: str | None) -> None:
    """The language is told only where small words or the script show it."""
    found = PromptAnalyzer().analyze(prompt)
    assert (found.script, found.language) == (script, language)
