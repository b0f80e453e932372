"""Which literals fit an annotation, and what is said of those that do not."""

import typing

import pytest
from gin import config as gin_state
from gin_examples import Part, message_of

from alfish import gin_config, gin_literal_types

GOOD = [
    "Learner.learning_rate=1",
    "Learner.steps=-2",
    "Learner.limit=None",
    "Learner.width=4",
    "Learner.sizes=(1, 2, 3)",
    "Learner.sizes=()",
    "Learner.pair=(1, 'b')",
    "Learner.rates=[1, 0.5]",
    "Learner.rates=None",
    "Learner.table={'a': [1], 'b': []}",
    "Learner.mode=3",
    "Learner.either='a'",
    "Learner.sequence=['a']",
    "Learner.make=@Learner",
    "Learner.strange=1",
    "Learner.anything={1: 'a'}",
    "Learner.unannotated='a'",
    "Learner.network='a'",
    "Learner.network=None",
    "Learner.steps=@Pair()",
    "Learner.make=@make_number",
    "Learner.unannotated=@make_number",
    "Learner.anything=@make_number",
    "Record.names=['a']",
]

BAD = [
    ("Learner.learning_rate='a'", "expected float, got 'a' (str)"),
    ("Learner.learning_rate=True", "expected float, got True (bool)"),
    ("Learner.learning_rate=None", "expected float, got None (NoneType)"),
    ("Learner.steps=True", "expected int, got True (bool)"),
    ("Learner.steps=1e6", "expected int, got 1000000.0 (float); write 1000000"),
    ("Learner.steps=1.5", "expected int, got 1.5 (float)"),
    ("Learner.name=1", "expected str, got 1 (int)"),
    ("Learner.flag=1", "expected bool, got 1 (int)"),
    ("Learner.limit='a'", "got 'a' (str)"),
    ("Learner.width='a'", "expected int | None, got 'a' (str)"),
    ("Learner.sizes=(32)", "expected tuple[int, ...], got 32 (int); a tuple is written (1, 2) or (1,)"),
    ("Learner.sizes=[1]", "expected tuple[int, ...], got [1] (list)"),
    ("Learner.sizes=(1, 'b')", "got 'b' (str) at [1]"),
    ("Learner.pair=(1, 2)", "got 2 (int) at [1]"),
    ("Learner.pair=(1,)", "got (1,) (tuple) of length 1"),
    ("Learner.rates=[1, True]", "expected list[float], got True (bool) at [1]"),
    ("Learner.table={'a': [1, 'x']}", "got 'x' (str) at ['a'][1]"),
    ("Learner.table={1: []}", "got 1 (int) at [1], a key"),
    ("Learner.mode='quick'", "expected 'fast', 'slow' or 3, got 'quick' (str)"),
    ("Learner.priority='td'", "expected 'error', 'loss', a function or None, got 'td' (str)"),
    ("Learner.mode=3.0", "got 3.0 (float)"),
    ("Learner.either=1.5", "expected int | str, got 1.5 (float)"),
    ("Learner.sequence='abc'", "expected Sequence[str], got 'abc' (str)"),
    ("Learner.make='Learner'", "got 'Learner' (str); expected a reference such as @Name"),
    ("Learner.steps=@make_number", "expected int, got @make_number; write @make_number()"),
    ("Learner.part=@scope/Heir", "expected Part, got @scope/Heir; write @scope/Heir()"),
    ("Learner.width=@scope/make_number", "expected int | None, got @scope/make_number; write @scope/make_number()"),
    ("Learner.either=@make_number", "expected int | str, got @make_number; write @make_number()"),
    ("Learner.sizes=(1, @make_number)", "expected tuple[int, ...], got @make_number; write @make_number()"),
    ("make_number.scale='a'", "expected float, got 'a' (str)"),
    ("Record.names=[1]", "expected list[str], got 1 (int) at [0]"),
    ("Pair.left='a'", "expected int, got 'a' (str)"),
    ("Part.size=None", "expected int, got None (NoneType)"),
    ("scope/Learner.steps='a'", "scope/Learner.steps = 'a': expected int"),
]


@pytest.mark.parametrize("param", GOOD)
def test_good_values(param):
    gin_config.parse([], [param])


@pytest.mark.parametrize(("param", "expected"), BAD)
def test_bad_values(param, expected):
    message = message_of(param)
    assert message.startswith(f"--gin_param={param}: ")
    assert expected in message


def test_types_beyond_the_usual():
    identity = typing.NewType("identity", int)
    assert gin_literal_types.mismatch(1, identity) == ""
    assert gin_literal_types.mismatch("a", identity) == "'a' (str)"
    assert gin_literal_types.mismatch(None, Part) == "None (NoneType)"
    assert gin_literal_types.mismatch("a", Part) == ""
    assert gin_literal_types.mismatch(None, typing.TypeVar("Anything")) == ""
    assert gin_literal_types.mismatch("a", type[Part]).startswith("'a' (str)")
    assert gin_literal_types.mismatch([1, "a"], list[int | None]) == "'a' (str) at [1]"
    assert gin_literal_types.mismatch(None, typing.Hashable) == ""


SUPPORT = "import alfish.models.simple_mcts_model\nimport alfish.ops.scalar_supports\n"
LEARNER = (
    "import alfish.algorithms.muzero_algorithm\nimport alfish.algorithms.muzero_priorities\n"
    "import alfish.networks.augmentation\nimport alfish.networks.consistency_heads\n"
    "import alfish.ops.reward_transforms\n"
)


@pytest.mark.parametrize(
    ("imports", "binding"),
    [
        (SUPPORT, "SimpleMCTSModel.value_support = @QuantileSupport()\nQuantileSupport.num_quantiles = 8"),
        (SUPPORT, "SimpleMCTSModel.value_support = @QuantileSupport()"),
        (SUPPORT, "SimpleMCTSModel.reward_support = @reward/SquaredSupport()"),
        (LEARNER, "MuzeroRepresentationImpl.augmentation = @RandomShift()"),
        (LEARNER, "MuzeroRepresentationImpl.augmentation = (@RandomShift, @RandomIntensity())"),
        (LEARNER, "MuzeroRepresentationImpl.consistency = @SimSiamHeads()"),
        (LEARNER, "MuzeroRepresentationImpl.priority_function = @loss_priority()"),
        (LEARNER, "Reanalysis.algorithm = @MCTSAlgorithm()"),
        (LEARNER, "MuzeroAlgorithm.representation = @MuzeroRepresentationImpl()"),
    ],
)
def test_brackets_where_the_code_calls_what_is_bound(imports, binding):
    with pytest.raises(gin_config.ConfigError) as error:
        gin_config.parse_text(f"{imports}{binding}\n")
    reference = binding.split("\n")[0].replace("(@RandomShift, ", "").rpartition(" ")[2].rstrip(")").rstrip("(")
    assert str(error.value).endswith(f"the code that uses it calls it itself; write {reference} without the brackets")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("imports", "binding"),
    [
        (SUPPORT, "SimpleMCTSModel.value_support = @SquaredSupport"),
        (LEARNER, "MuzeroRepresentationImpl.augmentation = (@RandomShift, @RandomIntensity)"),
        (LEARNER, "MuzeroRepresentationImpl.priority_function = @loss_priority"),
        (LEARNER, "MuzeroRepresentationImpl.reward_transform = @SignReward()"),
    ],
)
def test_references_with_the_brackets_that_they_need(imports, binding):
    gin_config.parse_text(f"{imports}{binding}\n")


def test_what_the_code_calls_without_arguments_must_be_bound():
    with pytest.raises(
        gin_config.ConfigError, match=r"value_support = @QuantileSupport: QuantileSupport\.num_quantiles"
    ):
        gin_config.parse_text(f"{SUPPORT}SimpleMCTSModel.value_support = @QuantileSupport\n")
    with pytest.raises(gin_config.ConfigError, match=r"value/QuantileSupport\.num_quantiles must be set"):
        gin_config.parse_text(
            f"{SUPPORT}SimpleMCTSModel.value_support = @value/QuantileSupport\n"
            "reward/QuantileSupport.num_quantiles = 8\n"
        )


class Measures(typing.Protocol):
    def size(self) -> int: ...


class Converts(typing.Protocol):
    def __call__(self, text: str) -> int: ...


class Called(Part):
    def __call__(self) -> int:
        return 1


@pytest.mark.parametrize("fitting", [type, type[Part], typing.Hashable, typing.Callable, Converts, typing.TypeVar("T")])
def test_a_reference_that_is_not_called_fits_what_a_class_can_be(fitting):
    reference = gin_state.ConfigurableReference("Part", evaluate=False)
    assert gin_literal_types.mismatch(reference, fitting) == ""
    assert gin_literal_types.mismatch(reference, fitting | None) == ""


@pytest.mark.parametrize("unfitting", [Part, Called, Measures, list[int], dict, bool])
def test_a_reference_that_is_not_called_fits_nothing_else(unfitting):
    reference = gin_state.ConfigurableReference("Part", evaluate=False)
    assert gin_literal_types.mismatch(reference, unfitting) == "@Part; write @Part()"
    assert gin_literal_types.mismatch(reference, unfitting | None) == "@Part; write @Part()"
    assert gin_literal_types.mismatch(gin_state.ConfigurableReference("Part", evaluate=True), unfitting) == ""
