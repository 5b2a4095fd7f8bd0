"""What the analyzer says of prompts: tasks, levels, needs, and of input that is no prompt."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxai import PromptAnalyzer
from fluxai.prompts import Calibration, PromptAnalysis
from tests.training.tasks import ASKED_JUDGED

ANALYZER = PromptAnalyzer()
TASKS = {"text", "code", "image", "reasoning"}
LEVELS = ["simple", "medium", "complex"]
HARD_QUESTION = (
    "Statement 1 | Every homomorphic image of a group G is isomorphic to a factor group of G. "
    "Statement 2 | The kernel of a homomorphism is a normal subgroup. A ring of order 30 has how many "
    "ideals, if its characteristic is 15 and its quotient by the nilradical is a field extension?"
)


@pytest.mark.parametrize(
    ("prompt", "task"),
    [
        ("What is the capital of France?", "text"),
        ("Write a short letter to my landlord about the broken heating.", "text"),
        ("Write a Python function that reverses a list.", "code"),
        (
            "def add(a, b):\n    return a - b\n\nWhy does this test fail: assert add(1, 2) == 3",
            "code",
        ),
        ("Draw a cat", "image"),
        ("a portrait of an old fisherman in the rain, oil on canvas", "image"),
        ("Solve for x: $3x + 5 = 20$, and show each equation.", "reasoning"),
        (
            "Tom has 5 apples. He buys twice as many and gives 3 away. How many apples has he altogether?",
            "reasoning",
        ),
    ],
)
def test_a_plain_request_is_recognised(prompt: str, task: str) -> None:
    """Each kind of task, in words that leave no doubt."""
    found = ANALYZER.analyze(prompt)
    assert found.task_type == task
    assert found.confidence > 0.5


@pytest.mark.parametrize("sentence", ASKED_JUDGED)
def test_a_picture_is_recognised_however_it_is_asked_for(sentence: str) -> None:
    """Sentences that no training prompt has: what counts is the intent, not the template."""
    scenes = ("a fox asleep under an apple tree", "two sailors on a wooden ship", "a red bicycle")
    found = [ANALYZER.analyze(sentence.format(scene)).task_type for scene in scenes]
    assert found.count("image") >= 2


@pytest.mark.parametrize(
    "prompt",
    [
        "Describe what you see in this picture.",
        "Write a Python script that resizes every image in a folder.",
        "Who painted the Mona Lisa?",
        "How do I centre an image with CSS?",
        "hope",
        "Thanks!",
    ],
)
def test_to_speak_of_pictures_is_not_to_ask_for_one(prompt: str) -> None:
    """A wrong answer here would send a question to a model that only draws."""
    found = ANALYZER.analyze(prompt)
    assert found.task_type != "image"
    assert "image_generation" not in found.needs


def test_harder_questions_are_less_likely_to_do_with_a_cheap_model() -> None:
    """The level and the probability come from one score, and so can't contradict each other."""
    easy = ANALYZER.analyze("What colour is the sky?")
    hard = ANALYZER.analyze(HARD_QUESTION)
    assert easy.cheap_ok > hard.cheap_ok
    assert easy.gain < hard.gain
    assert LEVELS.index(easy.complexity) < LEVELS.index(hard.complexity)
    assert any(hard.complexity in reason for reason in hard.reasons)


def test_large_work_is_more_than_a_short_question() -> None:
    """A task with design, proof and constraints in it is no simple prompt, short as it may be."""
    work = ANALYZER.analyze(
        "Design a distributed lock service, prove that it is safe under concurrent failures, and derive "
        "the constraints on its clocks."
    )
    assert work.complexity == "complex"


@pytest.mark.parametrize(
    "claim",
    [
        "This is simple. ",
        "EASY, trivial question! ",
        "This is an extremely complex, advanced and difficult problem: ",
        "simple " * 200,
    ],
)
@pytest.mark.parametrize("prompt", ["What colour is the sky?", HARD_QUESTION])
def test_what_a_prompt_claims_of_its_own_difficulty_does_not_count(claim: str, prompt: str) -> None:
    """Saying so moves a prompt no further than other words of that length would."""
    plain = ANALYZER.analyze(prompt)
    neutral = ANALYZER.analyze("Zq" * (len(claim) // 2) + " " + prompt)
    claimed = ANALYZER.analyze(claim + prompt)
    assert abs(claimed.cheap_ok - plain.cheap_ok) < 0.06 + abs(neutral.cheap_ok - plain.cheap_ok)


ODD: dict[str, Any] = {
    "empty": "",
    "blank": " \n\t ",
    "emoji": "👍🏽🎉" * 40,
    "NUL": "\0" * 50,
    "lone surrogates": "\ud800\udfff what is this?",
    "base64": "QUJDREVGR0g=" * 5_000,
    "10 MB": "word " * 2_000_000,
    "10 MB without a space": "x" * 10_000_000,
    "signs": "((((((" * 5_000 + "$$$$" * 5_000,
    "digits": "1234567890" * 5_000,
    "combining": "e" + "\u0301" * 5_000,
    "None": None,
    "number": 7,
    "float": float("nan"),
    "bytes": b"hello \xff\xfe",
    "no messages": [],
    "empty dict": {},
    "empty messages": {"messages": []},
    "a message of None": [None, {"role": "user", "content": None}],
    "strange roles": [{"role": 5, "content": [1, 2, {"type": None}]}],
    "an object": object(),
}


@pytest.mark.parametrize("prompt", ODD.values(), ids=ODD)
def test_odd_input_is_analysed_all_the_same(prompt: object) -> None:
    """No exception, and an answer within its bounds."""
    found = ANALYZER.analyze(prompt)
    assert found.complexity in LEVELS
    assert found.task_type in TASKS
    assert 0 <= found.cheap_ok <= 1
    assert 0 <= found.confidence <= 1
    assert found.tokens >= 0
    assert found.reasons


@given(st.text() | st.recursive(st.none() | st.text() | st.integers(), st.lists, max_leaves=8))
def test_any_text_is_analysed(prompt: object) -> None:
    """Whatever the characters are, or however lists of them are nested."""
    found = ANALYZER.analyze(prompt)
    assert found.task_type in TASKS
    assert 0 <= found.cheap_ok <= 1


def test_messages_that_hold_themselves_end() -> None:
    """A list or a dict inside itself is read once."""
    message: dict[str, Any] = {"role": "user", "content": ["hello"]}
    message["content"].append(message)
    assert ANALYZER.analyze([message]).task_type in TASKS


def test_nothing_is_known_of_nothing() -> None:
    """An empty prompt has the confidence of a guess among four, and says why."""
    found = ANALYZER.analyze("")
    assert found.task_type == "text"
    assert found.confidence == 0.25
    assert found.reasons == ("there is no text to judge",)
    assert found.script is None


def test_what_a_model_must_be_able_to_do_is_told() -> None:
    """Pictures to look at, tools to call, pictures to make."""
    looked_at = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is in this picture?"},
                {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
            ],
        }
    ]
    request = {
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [{"type": "function", "function": {"name": "weather"}}],
    }
    assert ANALYZER.analyze(looked_at).needs == {"image"}
    assert ANALYZER.analyze(request).needs == {"tools"}
    assert ANALYZER.analyze("Draw a cat").needs == {"image_generation"}
    assert ANALYZER.analyze("What is the capital of France?").needs == set()


def test_own_outcomes_correct_the_probability_and_nothing_else() -> None:
    """A calibration moves `cheap_ok`; the score and the level stay."""
    plain = ANALYZER.analyze(HARD_QUESTION)
    corrected = PromptAnalyzer(Calibration(offset=-3.0)).analyze(HARD_QUESTION)
    assert corrected.cheap_ok < plain.cheap_ok / 2
    assert (corrected.gain, corrected.complexity) == (plain.gain, plain.complexity)


def test_threads_see_the_same() -> None:
    """One analyzer for all threads."""
    prompts = ["Draw a cat", HARD_QUESTION, "hi", "Write SQL that counts users"] * 8
    alone = [ANALYZER.analyze(prompt) for prompt in prompts]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(PromptAnalyzer().analyze, prompts)) == alone


def test_an_analysis_is_a_value() -> None:
    """It can't be changed, and is ready for JSON."""
    found = ANALYZER.analyze("Draw a cat")
    with pytest.raises(FrozenInstanceError):
        found.complexity = "complex"  # type: ignore[misc]
    assert isinstance(found, PromptAnalysis)
    assert found.to_dict()["needs"] == ["image_generation"]
    assert set(found.to_dict()) == set(PromptAnalysis.__dataclass_fields__)
