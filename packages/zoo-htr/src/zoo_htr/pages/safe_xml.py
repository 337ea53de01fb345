"""Parse XML of strangers: no entities, no network, bounded size; names are compared without their namespace."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import Any, TypeAlias

from lxml import etree

from zoo_core.errors import InputError

Element: TypeAlias = Any  # lxml has no types of its own
MAX_BYTES = 64 * 2**20
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)["']""")
_ROOT = re.compile(r"<(?!\?|!)(?:[\w.-]+:)?([\w.-]+)")
_UNWRITABLE = re.compile("[^\\t\\n\\r\\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# labels that any bytes satisfy, so that a wrong one is not noticed by the parser
_ONE_BYTE = {"iso8859-1", "iso8859-15", "cp1252", "ascii"}


def parse(data: bytes, name: str) -> tuple[Element, list[str]]:
    """Parse a file.

    Args:
        data: its bytes.
        name: what messages call it.

    Returns:
        the root element, and what was odd, in words for the user.

    Raises:
        InputError: too large, not well formed, or it declares entities, which no page needs.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"{name} has {len(data)} bytes; the limit for XML is {MAX_BYTES}.", "Cut it into pages.")
    encoding, notes = _encoding(data)
    # the DTD's own text is searched first: attributes are expanded while they are parsed
    if b"<!ENTITY" in data.replace(b"\0", b""):
        raise _entities(name)
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, encoding=encoding
    )
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError, LookupError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "nothing in it"
        raise InputError(
            f"{name} is not well-formed XML: {reason}.", "Export it again; it may be truncated or no XML at all."
        ) from error
    dtd = root.getroottree().docinfo.internalDTD
    if dtd is not None and any(True for _ in dtd.iterentities()):
        raise _entities(name)
    return root, notes


def root_name(head: bytes) -> str:
    """Return the local name of the root element of a file that begins with `head`, "" if it is no XML."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = head[: len(head) // 2 * 2].decode("utf-16", "ignore")
    else:
        text = head.removeprefix(codecs.BOM_UTF8).decode("utf-8", "ignore")
    if not text.lstrip().startswith("<"):
        return ""
    # comments may hold anything, also what looks like elements
    match = _ROOT.search(re.sub(r"<!--.*?(-->|$)", "", text, flags=re.DOTALL))
    return match[1] if match else ""


def local(element: Element) -> str:
    """Return an element's name without its namespace; "" for comments and other things between elements."""
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def children(element: Element, *names: str) -> Iterator[Element]:
    """Yield the children of these local names; all child elements if none is given."""
    return (child for child in element if local(child) and (not names or local(child) in names))


def child(element: Element, name: str) -> Element | None:
    """Return the first child of that local name."""
    return next(children(element, name), None)


def descendants(element: Element, *names: str) -> Iterator[Element]:
    """Yield all elements below of these local names, in the order of the file."""
    return (below for below in element.iter() if local(below) in names and below is not element)


def ancestors(element: Element) -> Iterator[Element]:
    """Yield the elements around an element, the nearest first."""
    return iter(element.iterancestors())


def text_of(element: Element | None) -> str:
    """Return the text of an element without that of elements in it, "" for None."""
    if element is None:
        return ""
    return (element.text or "") + "".join(below.tail or "" for below in element)


def writable(text: str) -> str:
    """Return a text without the characters that XML cannot hold."""
    return _UNWRITABLE.sub("", text)


def same_namespace(element: Element, name: str) -> str:
    """Return the tag of a new element that stands in the namespace of `element`."""
    space = etree.QName(element).namespace
    return f"{{{space}}}{name}" if space else name


def serialise(root: Element) -> bytes:
    """Return the file of a tree, in UTF-8, with what stands before and after the root."""
    tree = root.getroottree()
    alone = True if tree.docinfo.standalone else None  # no is what a file without the word says
    data: bytes = etree.tostring(tree, xml_declaration=True, encoding="UTF-8", standalone=alone)
    return data if data.endswith(b"\n") else data + b"\n"


def _encoding(data: bytes) -> tuple[str | None, list[str]]:
    """Return the encoding to parse with where the label cannot be right, else None, and what to say about it."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return None, []
    match = _DECLARED.match(data.removeprefix(codecs.BOM_UTF8))
    label = match[1].decode("ascii", "replace") if match else "utf-8"
    try:
        declared = codecs.lookup(label).name
    except LookupError:
        declared = "unknown"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        if declared in {"utf-8", "ascii", "unknown"}:
            return "windows-1252", [f"it says that it is {label} but is not: read as Windows-1252"]
        return None, []
    if declared == "utf-8" or (data.isascii() and declared in _ONE_BYTE):
        return None, []
    if declared in _ONE_BYTE or declared == "unknown" or declared.startswith("utf-16"):
        return "utf-8", [f"it says that it is {label} but is UTF-8: read as UTF-8"]
    return None, []


def _entities(name: str) -> InputError:
    return InputError(
        f"{name} declares entities, which are not read here: they can name other files or grow without end.",
        "Save it without a DOCTYPE.",
    )
