"""
Writes the search index as a script too, which the theme asks for when the site is opened from a folder.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority


@event_priority(-100)  # behind the plugin that writes the index
def on_post_build(config: MkDocsConfig) -> None:
    folder = Path(config.site_dir, "search")
    (folder / "search_index.js").write_text(f"var __index = {(folder / 'search_index.json').read_text()}")
