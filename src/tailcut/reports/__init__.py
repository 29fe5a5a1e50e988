"""Reports of results: the papers' figures beside those measured here. Reads results, never trains."""

from tailcut.reports.records import by_name as by_name
from tailcut.reports.records import find_results as find_results
from tailcut.reports.records import read_records as read_records
from tailcut.reports.records import records_folder as records_folder
from tailcut.reports.seeds import SeedMean as SeedMean
from tailcut.reports.seeds import same_training as same_training
from tailcut.reports.seeds import seed_means as seed_means
from tailcut.reports.starts import start_is_older as start_is_older
from tailcut.reports.starts import start_of as start_of
from tailcut.reports.table5 import table5 as table5
from tailcut.reports.tables import ReproducedRow as ReproducedRow
from tailcut.reports.tables import ReproduceReport as ReproduceReport
from tailcut.reports.tables import Wanted as Wanted
from tailcut.reports.tables import make_table as make_table
from tailcut.reports.tables import table_of as table_of
