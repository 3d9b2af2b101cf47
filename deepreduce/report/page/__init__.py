"""report.html: one file that shows a run, without a network connection.

`contents` says what it shows, as plain values; `html` puts them into one text with the markup, style and script that
lie beside it. The script is plain JavaScript: its files are joined into one module in the order of their use.
"""

from deepreduce.report.page.contents import NetworkFiles, PageContents, SiteCount, StageWorth, TrainedEpoch
from deepreduce.report.page.html import page_html

__all__ = ["NetworkFiles", "PageContents", "SiteCount", "StageWorth", "TrainedEpoch", "page_html"]
