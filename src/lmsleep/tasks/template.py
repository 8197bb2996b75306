"""Lines of JSON, and templates over their fields: `{name}` stands for a field."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from lmsleep.checks import json_kind, parse_json, require

CONTEXT, QUESTION = "{context}", "{question}"  # placeholders in templates
FIELD = re.compile(r"\{(\w+(?:\.\w+)*)\}")
ASKABLE = (
    "context must call its question {question} or its document {context}, or else `lmsleep chat` does not know which "
    "is asked"
)
_ESCAPE = re.compile(r"\\([nt\\])")


def unescape(template: str) -> str:
    r"""A template as a shell hands it over, with `\n`, `\t` and `\\` as the characters that they stand for."""
    return _ESCAPE.sub(lambda escape: {"n": "\n", "t": "\t"}.get(escape[1], escape[1]), template)


def check_template(name: str, template: str, field: str | None = None) -> None:
    """Raises ValueError if a template has no field, or not this one: it would be the same text for every line."""
    fields = FIELD.findall(template)
    rule = f"{name} must have a field of a line in braces, as {{{field or name}}}"
    require(field in fields if field else fields, rule, template)


def is_askable(context: str, question: str) -> bool:
    """Whether templates tell which field is the question: it may be one of several of the context."""
    fields = set(FIELD.findall(context))
    return len(fields) < 2 or bool(fields & {"context", "question"} or FIELD.search(question))


def rename_fields(context: str, question: str) -> tuple[str, str]:
    """Renames the fields of two templates to {context} and {question}, if there are two fields and no others. The
    question may stand in the first template alone, if one of the fields has its own name."""
    fields = set(FIELD.findall(context))
    asked = set(FIELD.findall(question)) or {"question"} & fields
    if not asked and len(fields) > 1:
        asked = fields - {"context"}
    read = fields - asked
    if len(asked) > 1 or len(read) != 1:
        return context, question
    names = dict.fromkeys(read, "{context}") | dict.fromkeys(asked, "{question}")
    context, question = (FIELD.sub(lambda field: names[field[1]], text) for text in (context, question))
    return context, question


def parse_row(line: str) -> dict[str, Any]:
    """The object of a line of JSON. Raises ValueError if it is none."""
    try:
        row = parse_json(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"must be JSON, got {error.msg.lower()} at character {error.pos}") from None
    if not isinstance(row, dict):
        raise ValueError(f"must be a JSON object, one a line, got {json_kind(row)}")
    return row


def fill_template(template: str, row: Mapping[str, Any]) -> str:
    """Fills `{name}` in a template with the fields of a row: text, or a number, true or false as JSON writes it. Raises
    ValueError if a field is missing or anything else."""

    def value(match: re.Match[str]) -> str:
        field: Any = row
        for name in match[1].split("."):
            inside = {str(i): item for i, item in enumerate(field)} if isinstance(field, list) else field
            inside = inside if isinstance(inside, Mapping) else {}
            if name not in inside:
                names, hint = {"context", "question", "answer"}, ""
                if match[1] in names and row and not names & row.keys():
                    field = f"'{{{next(iter(row))}}}'"
                    hint = f"; templates name other fields, as --context {field}, or --text {field} without questions"
                got = ", ".join(map(str, inside)) or "none"
                raise ValueError(f"must have the field {match[1]!r}, got {got}{hint}")
            field = inside[name]
        if isinstance(field, str):
            return field
        if not isinstance(field, int | float) or field in (math.inf, -math.inf) or field != field:
            got = field if isinstance(field, float) else json_kind(field)
            raise ValueError(f"{match[1]} must be text, a finite number, true or false, got {got}")
        return json.dumps(field)

    return FIELD.sub(value, template)
