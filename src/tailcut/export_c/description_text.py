"""A network's description as a C constant, for `tailcut_open`."""

from tailcut.export_c.description import NetworkDescription


def description_text(description: NetworkDescription, name: str = "network") -> str:
    """Return the C text of a description: a `static const tailcut_network` of that name, for one source file.

    Args:
        description: see `describe`.
        name: a C identifier; the constants beside it begin with it.
    """
    shapes = sorted({slot.shape for slot in description.slots if slot.shape})
    parts = [
        f"static const uint32_t {name}_sizes_{number}[] = {{{', '.join(map(str, shape))}}};"
        for number, shape in enumerate(shapes)
    ]
    slots = [
        f"    {{{_text(slot.name)}, {f'{name}_sizes_{shapes.index(slot.shape)}' if slot.shape else 'NULL'}, "
        f"{len(slot.shape)}, {int(slot.is_parameter)}, {slot.type_number}}},"
        for slot in description.slots
    ]
    for kind, content in (("arguments", description.arguments), ("edits", description.edits)):
        if content:
            parts.append(f"static const uint8_t {name}_{kind}[] = {{{', '.join(map(str, content))}}};")
    parts.append(f"static const tailcut_slot {name}_slots[] = {{\n" + "\n".join(slots) + "\n};")
    fields = [
        _text(description.base),
        f"{name}_arguments" if description.arguments else "NULL",
        str(len(description.arguments)),
        f"{name}_edits" if description.edits else "NULL",
        str(len(description.edits)),
        f"{name}_slots",
        str(len(description.slots)),
    ]
    parts.append(f"static const tailcut_network {name} = {{{', '.join(fields)}}};")
    return "\n".join(parts) + "\n"


def _text(content: str) -> str:
    """Return a C string; bytes beyond ASCII in octal, which takes no digit that follows."""
    return '"' + "".join(chr(b) if 32 <= b < 127 and b not in b'"\\?' else f"\\{b:03o}" for b in content.encode()) + '"'
