"""report.html: a page of a run in one file that needs no network connection.

`contents` holds the page's data as plain values; `html` joins them with the markup, style and script of this folder.
The script is plain JavaScript, whose files are joined into one module in the order of their use.
"""

from deepreduce.report.page.contents import NetworkFiles, PageContents, SiteCount, StageWorth, TrainedEpoch
from deepreduce.report.page.html import page_html

__all__ = ["NetworkFiles", "PageContents", "SiteCount", "StageWorth", "TrainedEpoch", "page_html"]
