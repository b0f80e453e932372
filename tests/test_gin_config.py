"""The guard around gin: what it refuses, what it says, and that a config survives the way to a worker."""

import importlib.util
import multiprocessing
import pickle
import textwrap
import traceback
from typing import Any

import gin
import pytest
from absl import logging
from gin_examples import Learner, Part, make_number, message_of

from alfish import gin_config, gin_tables
from alfish.gin_config import ConfigError


@gin.configurable
def fail(error: Any = None):
    raise error


@gin.configurable
def build_and_fail():
    fail(error=KeyError("lost"))


class AwkwardError(Exception):
    """Cannot be made from its message alone."""

    def __init__(self, code: int, reason: str):
        super().__init__(code, reason)
        self.code = code


@pytest.fixture(autouse=True)
def _empty_folders_and_config(tmp_path, monkeypatch):
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(gin_config, "_CONFIGS_FOLDER", tmp_path / "configs")
    (tmp_path / "configs").mkdir()
    gin.clear_config()  # conftest.py does so after each test


@pytest.fixture
def write(tmp_path):
    def write_file(name: str, text: str) -> str:
        path = tmp_path / "cwd" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return name

    return write_file


# --- files, includes, imports ---


def test_params_win_over_files_and_later_files_over_earlier(write):
    files = [write("a.gin", "Learner.steps = 1\nLearner.limit = 1\n"), write("b.gin", "Learner.limit = 2\n")]
    gin_config.parse(files, ["Learner.name='x'", "Learner.name='y'"])
    values = Learner().values
    assert (values["steps"], values["limit"], values["name"]) == (1, 2, "y")
    assert gin.config_is_locked()


def test_parse_replaces_what_was_there(write):
    gin_config.parse([], ["Learner.steps=5"])
    gin_config.parse([], ["Learner.limit=7"])
    assert Learner().values["steps"] == 1


def test_include_is_searched_in_cwd_then_own_folder_then_configs(write, tmp_path):
    write("deep/main.gin", "include 'part.gin'\ninclude 'shared.gin'\n")
    (tmp_path / "configs" / "part.gin").write_text("Learner.steps = 3\n")
    (tmp_path / "configs" / "shared.gin").write_text("Learner.limit = 30\n")
    gin_config.parse(["deep/main.gin"])
    assert (Learner().values["steps"], Learner().values["limit"]) == (3, 30)
    write("deep/part.gin", "Learner.steps = 2\n")
    gin_config.parse(["deep/main.gin"])
    assert Learner().values["steps"] == 2
    write("part.gin", "Learner.steps = 1\n")
    gin_config.parse(["deep/main.gin"])
    assert Learner().values["steps"] == 1


def test_a_given_file_is_found_in_configs(tmp_path):
    (tmp_path / "configs" / "ppo_cartpole.gin").write_text("Learner.steps = 3\n")
    gin_config.parse(["ppo_cartpole.gin"])
    assert Learner().values["steps"] == 3


def test_missing_file_is_named_with_folders_and_suggestion(write, tmp_path):
    (tmp_path / "configs" / "ppo_cartpole.gin").write_text("")
    message = message_of(files=("ppo_cartpol.gin",))
    assert "'ppo_cartpol.gin'" in message
    assert str(tmp_path / "configs") in message
    assert "did you mean ppo_cartpole.gin?" in message
    write("main.gin", "# comment\ninclude 'nothing_like_it.gin'\n")
    assert message_of(files=("main.gin",)).startswith("main.gin:2: there is no file 'nothing_like_it.gin'")


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "cwd" / "bad.gin").write_bytes(b"\xff\xfe\x00")
    assert message_of(files=("bad.gin",)).startswith("bad.gin: cannot be read: ")


def test_shared_part_is_read_once(write):
    write("base.gin", "Learner.steps = 1\n")
    write("left.gin", "include 'base.gin'\nLearner.steps = 2\n")
    write("right.gin", "include 'base.gin'\nLearner.limit = 2\n")
    write("main.gin", "include 'left.gin'\ninclude 'right.gin'\n")
    gin_config.parse(["main.gin"])
    assert Learner().values["steps"] == 2


def test_files_that_include_each_other_or_are_given_twice(write):
    write("a.gin", "include 'b.gin'\n")
    write("b.gin", "include 'a.gin'\n")
    assert message_of(files=("a.gin",)) == "b.gin:1: files include each other: a.gin -> b.gin -> a.gin"
    write("c.gin", "")
    assert "'c.gin' has already been read" in message_of(files=("c.gin", "c.gin"))


@pytest.mark.parametrize("statement", ["include 'b.gin'", "import math"])
def test_includes_and_imports_come_first(write, statement):
    write("b.gin", "Learner.steps = 2\n")
    write("a.gin", f"# a comment\nLearner.steps = 1\n{statement}\n")
    message = message_of(files=("a.gin",))
    assert message.startswith(f'a.gin:3: "{statement}"' if "'" in statement else f"a.gin:3: '{statement}'")
    assert "line 2" in message


def test_unknown_module_gets_a_suggestion(write, tmp_path, monkeypatch):
    write("a.gin", "import alfish.nets\n")
    assert message_of(files=("a.gin",)).startswith(
        "a.gin:1: cannot import alfish.nets: ModuleNotFoundError: No module named 'alfish.nets'; did you mean alfish.ne"
    )
    write("a.gin", "import alfsh.nest\n")
    assert "did you mean alfish?" in message_of(files=("a.gin",))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_plugin.py").write_text("import not_installed_here\n")
    write("a.gin", "import broken_plugin\n")
    assert message_of(files=("a.gin",)).endswith("ModuleNotFoundError: No module named 'not_installed_here'")
    (tmp_path / "failing_plugin.py").write_text("raise OSError('two\\nlines')\n")
    write("a.gin", "import failing_plugin\n")
    assert message_of(files=("a.gin",)).endswith("cannot import failing_plugin: OSError: two lines")


def test_a_plugin_is_imported_and_travels_in_the_text(write, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "good_plugin.py").write_text("import gin\n@gin.configurable\ndef plugged(x: int = 1):\n    return x\n")
    write("a.gin", "import good_plugin\nplugged.x = 2\n")
    gin_config.parse(["a.gin"])
    assert gin_config.config_text() == "import good_plugin\n\nplugged.x = 2\n"
    assert "expected int" in message_of("plugged.x='a'")


def test_dynamic_registration_is_refused(write):
    write("a.gin", "from __gin__ import dynamic_registration\n")
    assert "__gin__.dynamic_registration is not supported" in message_of(files=("a.gin",))


# --- names ---


def test_what_a_module_defines_that_is_not_imported(write, monkeypatch):
    table = {"ImageEncoderX": "alfish.networks.image_encoder", "QuaintNetwork": "alfish.networks.quaint"}
    monkeypatch.setattr(gin_tables, "_defined_in_package", lambda: table)
    unknown = (
        "nothing configurable is called 'ImageEncoderX'; add `import alfish.networks.image_encoder` to the imports"
    )
    assert unknown in message_of("ImageEncoderX.activation='relu'")
    assert unknown in message_of("Learner.part=@ImageEncoderX")
    assert "nothing configurable is called 'ImagEncoderX'; did you mean ImageEncoderX" in message_of("ImagEncoderX.a=1")
    assert message_of("Learner.part=@Quai").endswith(
        "nothing configurable is called 'Quai'; did you mean QuaintNetwork?"
    )


def test_where_the_package_defines_its_configurables():
    defined = gin_tables._defined_in_package()
    assert defined["ImageEncoder"] == "alfish.networks.image_encoder"
    assert defined["make_gymnasium"] == "alfish.environments.gymnasium_adapter"
    assert all(importlib.util.find_spec(module) for module in defined.values())


def test_unknown_names_get_suggestions(write):
    write("a.gin", "\nLerner.steps = 1\n")
    # Other tests register further names, so that more than one may be suggested.
    message = message_of(files=("a.gin",))
    assert message.startswith("a.gin:2: nothing configurable is called 'Lerner'; did you mean Learner")
    write("a.gin", "Learner.steps = 1\n\nLearner.part = [\n    1,\n    @Prt()]\n")
    assert message_of(files=("a.gin",)) == "a.gin:5: nothing configurable is called 'Prt'; did you mean Part?"
    write("a.gin", "Lerner:\n  steps = 1\n")
    assert message_of(files=("a.gin",)).startswith("a.gin:1: nothing configurable is called 'Lerner'")
    write("a.gin", "Learner:\n  steps = 1\n  stps = 1\n")
    assert message_of(files=("a.gin",)) == "a.gin:3: Learner has no parameter 'stps'; did you mean steps?"
    assert message_of("Learner.learnin_rate=1") == (
        "--gin_param=Learner.learnin_rate=1: Learner has no parameter 'learnin_rate'; did you mean learning_rate?"
    )
    assert message_of("Part.qqqq=1").endswith("Part has no parameter 'qqqq'; expected one of size, depth")
    assert "import" in message_of("Zzzzzzz.x=1")


def test_undefined_macro_gets_a_suggestion(write):
    write("a.gin", "LEARNING_RATE = 0.1\nLearner.learning_rate = %LEARNIN_RATE\n")
    assert message_of(files=("a.gin",)) == (
        "a.gin:2: Learner.learning_rate = %LEARNIN_RATE: the macro %LEARNIN_RATE is not defined; "
        "did you mean LEARNING_RATE?"
    )
    assert "did you mean gin.REQUIRED?" in message_of("Learner.steps=%gin.REQIRED")


def test_macros_defined_by_each_other(write):
    write("a.gin", "A = %B\nB = [%A]\nLearner.anything = %A\n")
    assert "macros are defined by each other: " in message_of(files=("a.gin",))


def test_a_macro_that_nothing_uses(write):
    write("a.gin", "STEPS = 2\nLearner.steps = %STEPS\n")
    gin_config.parse(["a.gin"], ["STEPS=4"])
    assert Learner().values["steps"] == 4
    assert message_of("STEP=4", files=("a.gin",)) == (
        "--gin_param=STEP=4: no binding uses the macro STEP; correct or remove it; did you mean STEPS?"
    )
    write("b.gin", "OTHER = 2\n")
    gin_config.parse(["b.gin"])
    assert message_of(files=("b.gin",), strict=True).startswith("b.gin:1: no binding uses the macro OTHER")


def test_a_name_bound_twice_in_one_file(write):
    write("a.gin", "Learner.steps = 1\ngin_examples.Learner.steps = 2\n")
    assert message_of(files=("a.gin",)) == "a.gin:2: Learner.steps is already bound on line 1; keep one of them"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Learner.name = CartPole\n", "a.gin:1: 'CartPole' is no value; expected a Python literal (text in quotes)"),
        ("\nLearner.name = \n", "a.gin:2: "),
        ("Learner.steps = 1 2\n", "a.gin:1: Expected newline: 'Learner.steps = 1 2'"),
        ("Learner.sizes = (1,\n", "a.gin:"),
        ("Learner.name = 'open\n", "a.gin:1: "),
        (
            "Learner.learning_rate = 1e999\n",
            "a.gin:1: Learner.learning_rate = inf: not a value that gin can write back",
        ),
    ],
)
def test_syntax_errors_have_a_place(write, text, expected):
    write("a.gin", text)
    assert message_of(files=("a.gin",)).startswith(expected)


@pytest.mark.parametrize(
    "param", ["", "import math", "include 'a.gin'", "Learner.steps=1\nLearner.limit=2", "Learner:\n steps=1"]
)
def test_a_param_is_one_binding(param):
    source = f"--gin_param={' '.join(param.split())}: "
    assert message_of(param) == f"{source}expected one binding, Name.parameter=value or MACRO=value"


def test_a_param_that_cannot_be_read():
    assert message_of("Learner.name=CartPole").startswith("--gin_param=Learner.name=CartPole: 'CartPole' is no value")
    assert "Learner.sizes=[1, 2]: Learner.sizes = [1, 2]: expected" in message_of("Learner.sizes=[1,\n2]")
    assert message_of("Learner.part=@Prt").startswith("--gin_param=Learner.part=@Prt: nothing configurable is called")


# --- required values ---


def test_required_values(write):
    write("a.gin", "RATE = %gin.REQUIRED\nLearner.learning_rate = %RATE\n")
    expected = "must be set; add 'RATE = …' to a gin file or --gin_param='RATE=…' to the command line"
    assert message_of(files=("a.gin",)).endswith(f"a.gin:1: RATE = %gin.REQUIRED: RATE {expected}")
    gin_config.parse(["a.gin"], ["RATE=0.5"])
    write("a.gin", "Learner.anything = [1, %gin.REQUIRED]\n")
    assert "Learner.anything must be set" in message_of(files=("a.gin",))


def test_a_referenced_call_without_its_arguments(write):
    assert "Learner.part = @Part(): Part.size must be set; add 'Part.size = …'" in message_of("Learner.part=@Part()")
    assert "big/Part.size must be set" in message_of("Learner.part=@big/Part()", "small/Part.size=1")
    assert "Record.size must be set" in message_of("Learner.anything=[@Record()]")
    assert "make_number.value must be set" in message_of("Learner.learning_rate=@make_number()")
    gin_config.parse([], ["Learner.part=@big/Part()", "big/Part.size=1"])
    gin_config.parse([], ["Learner.part=@big/Part()", "Part.size=1"])
    gin_config.parse([], ["Learner.part=@Part()", "outer/Part.size=1"])  # the caller may be in that scope
    gin_config.parse([], ["Learner.make=@Part"])  # the code that calls it may give the size
    gin_config.parse([], ["Learner.part=@Heir()", "Part.size=4"])
    assert Learner().values["part"].size == 4


def test_required_in_code_is_clear_when_called():
    gin_config.parse([], [])
    with (
        pytest.raises(ConfigError, match=r"^Part\.size must be set; add 'Part\.size = …'"),
        gin_config.errors_readable(),
    ):
        Part()


# --- types ---


def test_the_value_of_a_macro_is_checked(write):
    write("a.gin", "RATE = 'a'\nOTHER = %RATE\nLearner.learning_rate = %OTHER\n")
    assert message_of(files=("a.gin",)) == (
        "a.gin:3: Learner.learning_rate = %OTHER: expected float, got 'a' (str); the macro is set at a.gin:2"
    )
    write("a.gin", "SIZE = 'a'\nLearner.sizes = (1, %SIZE)\n")
    assert "a.gin:2: Learner.sizes = (1, %SIZE): expected tuple[int, ...], got 'a' (str) at [1]" in message_of(
        files=("a.gin",)
    )


# --- the way to workers and saved runs ---

RICH = """\
# a comment
A_TABLE = {'z': 1, 'a': [2, (3,), {'k': %RATE}]}
RATE = 0.25
scope/RATE = 1e-9
Learner.learning_rate = %RATE
Learner.name = 'two\\nlines, "quotes", \\'more\\' and \\u2028 ünïcode'
Learner.anything = [%A_TABLE, @small/Part(), @outer/inner/Learner, @Part, b'\\x00', None, True, -1.5, ()]
Learner.unannotated = %scope/RATE
Learner.network = 'a long text, ' 'in two pieces, longer than any line that gin would like to write in one, surely'
small/Part.size = 3
outer/inner/Learner.steps = 5
outer/Learner.limit = 6
keep/gin.singleton.constructor = @small/Part
Learner.part = @keep/gin.singleton()
"""


def _build_all() -> dict[str, Any]:
    values = Learner().values
    table, part, learner, part_class, *rest = values["anything"]
    with gin.config_scope("outer/inner"):
        scoped = Learner()
    assert list(table) == ["z", "a"], "the order of a dict decides the order in which modules are made"
    return {
        "name": values["name"],
        "unannotated": values["unannotated"],
        "network": values["network"],
        "learning_rate": values["learning_rate"],
        "table": table,
        "rest": rest,
        "sizes": (part.size, values["part"].size, part_class(size=7).size),
        "learner": (learner().values["steps"], learner().values["limit"], scoped.values["steps"]),
    }


def _report_from_worker(text: str, connection) -> None:
    try:
        gin_config.parse_text(text)
        connection.send(_build_all())
    except Exception as error:
        connection.send(repr(error))


def _without_macros(config: dict) -> str:
    """Also the order counts: gin calls the references of one constructor in it. That of macros decides nothing."""
    return repr([(key, value) for key, value in config.items() if key[1] != "gin.macro"])


def test_round_trip(write):
    write("rich.gin", RICH)
    gin_config.parse(["rich.gin"])
    text = gin_config.config_text()
    before, built = dict(gin.config._CONFIG), _build_all()
    assert "import gin_examples" in text
    gin_config.parse_text(text)
    assert gin_config.config_text() == text
    assert _without_macros(before) == _without_macros(gin.config._CONFIG)
    assert _build_all() == built
    assert built["sizes"] == (3, 3, 7)
    assert built["learner"] == (5, 6, 5)
    assert built["unannotated"] == 1e-9


def test_a_spawned_worker_builds_the_same(write):
    write("rich.gin", RICH)
    gin_config.parse(["rich.gin"])
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    worker = context.Process(target=_report_from_worker, args=(gin_config.config_text(), theirs))
    worker.start()
    assert ours.poll(60)
    assert ours.recv() == _build_all()
    worker.join(60)


def test_text_of_an_empty_configuration():
    gin_config.parse([], [])
    gin_config.parse_text(gin_config.config_text())
    assert gin.config_is_locked()


def test_parse_text_checks_and_has_no_includes():
    with pytest.raises(ConfigError, match="config text:1: Learner.steps = 'a': expected int"):
        gin_config.parse_text("Learner.steps = 'a'\n")
    with pytest.raises(ConfigError, match="config text:1: include 'a.gin'"):
        gin_config.parse_text("include 'a.gin'\n")


def test_a_python_object_cannot_travel():
    gin.bind_parameter("Learner.anything", object())
    with pytest.raises(ConfigError, match="Learner.anything = <object"):
        gin_config.config_text()


def test_operative_config_has_defaults_and_can_be_parsed():
    gin_config.parse([], ["Learner.steps=5", "Part.size=1", "N=2", "Part.depth=%N"])
    Learner()
    text = gin_config.operative_config_text()
    assert "Learner.steps = 5\n" in text
    assert "Learner.limit = 3\n" in text
    assert "Part." not in text
    Part()
    text = gin_config.operative_config_text()
    assert "N = 2\n" in text
    assert "Part.depth = %N\n" in text
    gin_config.parse_text(text)


# --- bindings without effect ---


def unused_message() -> str:
    with pytest.raises(ConfigError) as caught:
        gin_config.report_unused(strict=True)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_unused_bindings_are_named(monkeypatch):
    warnings = []
    monkeypatch.setattr(logging, "warning", lambda pattern, *values: warnings.append(pattern % values))
    gin_config.parse([], ["Part.size=1", "N=2", "Learner.steps=%N"])
    gin_config.report_unused(strict=False)
    assert warnings == [unused_message()]
    assert unused_message().endswith(
        ": Learner.steps (never built), N (used by nothing that was built), Part.size (never built)"
    )
    Learner()
    assert unused_message().endswith(": Part.size (never built)")
    Part()
    gin_config.report_unused(strict=True)
    gin_config.report_unused(strict=False)
    assert len(warnings) == 1


def test_a_binding_that_the_code_overrides_is_unused():
    gin_config.parse([], ["Part.size=1"])
    Part(size=3)
    assert "Part.size (set by the code, or in an inner scope)" in unused_message()
    Part()
    gin_config.report_unused(strict=True)


def test_unused_scopes():
    gin_config.parse([], ["Part.size=1", "a/Part.size=2", "a/b/Part.depth=3", "c/Part.depth=4"])
    with gin.config_scope("a/b"):
        assert (Part().size, Part().depth) == (2, 3)
    message = unused_message()
    assert " Part.size (set by the code, or in an inner scope)" in message
    assert " c/Part.depth (never built in this scope)" in message
    assert "a/" not in message


# --- readable errors ---


def raised_by(error: Exception) -> BaseException:
    with pytest.raises(Exception) as caught, gin_config.errors_readable():  # noqa: PT011
        fail(error=error)
    return caught.value


def test_gins_proxy_is_undone():
    original = AwkwardError(7, "no")
    with pytest.raises(AwkwardError) as augmented:
        fail(error=original)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(augmented.value)  # the trap that this guards against
    error = raised_by(original)
    assert error is original
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is AwkwardError
    assert (copy.args, copy.code) == ((7, "no"), 7)
    assert "In call to configurable 'fail'" in copy.__notes__[0]
    assert "In call to configurable 'fail'" in "".join(traceback.format_exception(error))
    assert error.__context__ is None


def test_an_error_in_a_reference_keeps_its_type_and_traceback():
    gin_config.parse([], ["fail.error=1", "scope/Learner.anything=@fail()"])
    with pytest.raises(TypeError) as caught, gin_config.errors_readable(), gin.config_scope("scope"):
        Learner()
    assert str(caught.value) == "exceptions must derive from BaseException"
    assert "'fail'" in caught.value.__notes__[0]
    assert len(traceback.extract_tb(caught.value.__traceback__)) >= 3


def test_cause_is_kept_and_untouched_errors_pass():
    cause = KeyError("cause")
    error = ValueError("message")
    error.__cause__ = cause
    assert raised_by(error).__cause__ is cause
    plain = ValueError("plain")
    assert gin_config.translate_error(plain) is plain
    with pytest.raises(ValueError, match="plain") as caught, gin_config.errors_readable():
        raise plain
    assert caught.value is plain
    assert not hasattr(plain, "__notes__")


def test_a_missing_argument_keeps_its_type():
    with pytest.raises(TypeError) as caught, gin_config.errors_readable():
        make_number()
    assert str(caught.value) == "make_number() missing 1 required positional argument: 'value'"
    assert "No values supplied by Gin or caller for arguments: ['value']" in "".join(caught.value.__notes__)


def test_each_configurable_on_the_way_adds_a_note():
    with pytest.raises(KeyError) as caught, gin_config.errors_readable():
        build_and_fail()
    assert str(caught.value) == "'lost'"
    assert ["'fail'" in note for note in caught.value.__notes__] == [True, False]
    assert "'build_and_fail'" in caught.value.__notes__[1]
