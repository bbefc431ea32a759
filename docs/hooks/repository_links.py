"""
Leads links out of `docs/` to pages of the site: each file or folder of the repository that a page links to is shown on
one.

So the pages have the links that readers of the repository follow, and the site needs no address of the repository.
"""

import re
from os.path import relpath
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page


TARGET = re.compile(r"(?<=\]\()([^()\s#:]+)(#[^()\s]*)?(?=\))")
# Generated pages, under the path that the file has in the repository
SHOWN = "files"
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json", ".sh": "bash"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each file outside of `docs/`, and each folder, that a page links to."""
    docs = Path(config.docs_dir)
    pages = files.documentation_pages()
    waiting = {path for page in pages for path in outside(page.content_string, _source(page, docs), docs)}
    done: set[Path] = set()
    while waiting - done:
        path = min(waiting - done)
        done.add(path)
        text = page_of(path, docs.parent)
        if path.suffix == ".md" or path.is_dir():
            waiting |= outside(text, path, docs)
        files.append(File.generated(config, _address(path, docs), content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leads the links of a page to the pages of the site."""
    docs = Path(config.docs_dir)
    source, here = _source(page.file, docs), Path(page.file.src_uri).parent

    def lead(target: re.Match) -> str:
        path = (source.parent / target[1]).resolve()
        if not path.exists():
            return target[0]
        is_page = path.is_relative_to(docs) and not path.is_dir()
        inside = path.relative_to(docs) if is_page else _address(path, docs)
        return f"{relpath(inside, here)}{target[2] or ''}"

    return TARGET.sub(lead, markdown)


def outside(text: str, source: Path, docs: Path) -> set[Path]:
    """
    Returns the files of the repository, outside of `docs`, and the folders that a text links to.

    Args:
        text (`str`):
            Markdown.
        source (`Path`):
            Its file, which links start from.
        docs (`Path`):
            The folder of the pages.
    """
    targets = {(source.parent / found[1]).resolve() for found in TARGET.finditer(text)}
    inside = {path for path in targets if path.exists() and path.is_relative_to(docs.parent)}
    return {path for path in inside if path.is_dir() or not path.is_relative_to(docs)}


def page_of(path: Path, root: Path) -> str:
    """Returns the page that shows a file: a page itself, a folder's `README.md`, or else the text of the file."""
    if path.is_dir():
        readme = path / "README.md"
        rows = [f"- [`{child.name}`]({path.name}/{child.name})" for child in sorted(path.iterdir()) if child.is_file()]
        return readme.read_text() if readme.is_file() else "\n".join([f"# {path.name}", "", *rows])
    if path.suffix == ".md":
        return path.read_text()
    language = LANGUAGES.get(path.suffix, "text")
    return f"# {path.name}\n\n`{path.relative_to(root)}`\n\n````{language}\n{path.read_text()}\n````\n"


def _address(path: Path, docs: Path) -> str:
    name = f"{SHOWN}/{path.relative_to(docs.parent)}"
    return name if path.suffix == ".md" else f"{name}.md"


def _source(file: File, docs: Path) -> Path:
    """The file of the repository that a page shows."""
    if file.src_uri.startswith(f"{SHOWN}/"):
        name = file.src_uri.removeprefix(f"{SHOWN}/")
        path = docs.parent / name
        return path if path.exists() else path.with_suffix("")
    return docs / file.src_uri
