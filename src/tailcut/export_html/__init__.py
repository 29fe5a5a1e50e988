"""Networks as one HTML page that runs them in any browser, offline.

- `wasm/` holds the runner of `export_c` as WebAssembly, with and without SIMD instructions; `make wasm` builds it;
- `memory_image` writes programs as that runner finds them in its memory;
- `network` decides what a page shows, and makes the programs;
- `page/` holds HTML, style and script; `export` puts all into one file.
"""

from tailcut.export_html.export import HtmlExportReport as HtmlExportReport
from tailcut.export_html.export import export_html as export_html
