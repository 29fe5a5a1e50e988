"""Gathers the pages of the site in build/pages, where MkDocs finds them: `make docs` runs this first.

    python -m tools.docs.site

The pages stay where they are in the repository, with links that work there. On the site a link to code leads to the API
reference, a link to another file to a copy of it, and a link to a folder without pages is plain text.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from posixpath import normpath

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "build" / "pages"
CODE = "src/tailcut"
MODULES_PAGE = "api/modules.md"  # of the modules that stand beside the packages
_FENCE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def pages(root: Path = ROOT) -> list[str]:
    """List the paths of all pages, relative to the repository."""
    fixed = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", f"{CODE}/format/SPEC.md"]
    fixed += ["conformance/README.md", "fuzz/README.md"]
    return [*fixed, *sorted(path.relative_to(root).as_posix() for path in (root / "docs").rglob("*.md"))]


def api_pages(root: Path = ROOT) -> dict[str, str]:
    """Write the pages of the API reference: one for each package, and one for the modules beside them."""
    folder = root / CODE
    packages = sorted(path.parent.name for path in folder.glob("*/__init__.py"))
    modules = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("__"))
    texts = {f"api/{name}.md": f"# tailcut.{name}\n\n::: tailcut.{name}\n" for name in packages}
    texts[MODULES_PAGE] = "# Other modules\n\n" + "\n".join(f"::: tailcut.{name}\n" for name in modules)
    return texts


def api_link(path: str) -> str | None:
    """Give the place in the API reference of a source file or folder; None for other files."""
    if not (path.startswith(f"{CODE}/") and (path.endswith(".py") or "." not in path)):
        return None
    parts = path.removeprefix(f"{CODE}/").removesuffix(".py").split("/")
    page = MODULES_PAGE if len(parts) == 1 and path.endswith(".py") else f"api/{parts[0]}.md"
    return f"{page}#{'.'.join(['tailcut', *(part for part in parts if part != '__init__')])}"


def site_text(page: str, text: str, known: set[str], root: Path = ROOT) -> tuple[str, set[str]]:
    """Write the links of a page as the site needs them; also give the other files that it links to.

    Args:
        page: its path in the repository.
        text: its Markdown.
        known: the paths of all pages.
        root: the repository.
    """
    files: set[str] = set()

    def replace(found: re.Match[str]) -> str:
        mark, label, link = found[1], found[2], found[3]
        path, _, fragment = link.partition("#")
        if not path or "://" in path:
            return found[0]
        target = normpath(f"{Path(page).parent.as_posix()}/{path}")
        if f"{target}/README.md" in known:
            target += "/README.md"
        place = target if target in known else api_link(target)
        if place is None and (root / target).is_file():
            files.add(target)
            place = target
        if place is None:
            return label
        up = "../" * page.count("/")
        return f"{mark}[{label}]({up}{place}{'#' + fragment if fragment else ''})"

    parts = _FENCE.split(text)
    return "".join(part if part.startswith("```") else _LINK.sub(replace, part) for part in parts), files


def site(root: Path = ROOT) -> Iterator[tuple[str, str | Path]]:
    """Give all files of the site: their paths there, with a text or the file to copy."""
    known = set(pages(root))
    others: set[str] = set()
    for page in pages(root):
        text, files = site_text(page, (root / page).read_text(encoding="utf-8"), known, root)
        others |= files
        yield page, text
    yield from api_pages(root).items()
    for name in sorted(others):
        yield name, root / name


def main() -> None:
    """Write build/pages anew."""
    shutil.rmtree(PAGES, ignore_errors=True)
    for name, content in site():
        path = PAGES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, path)
        else:
            path.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
