"""Tables of results: what the papers print beside what was measured here. Reads run folders, never trains."""

from tailcut.reports.tables import ReproducedRow as ReproducedRow
from tailcut.reports.tables import ReproduceReport as ReproduceReport
from tailcut.reports.tables import Wanted as Wanted
from tailcut.reports.tables import find_results as find_results
from tailcut.reports.tables import make_table as make_table
from tailcut.reports.tables import table_of as table_of
