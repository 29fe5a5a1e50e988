"""Reports of results: the papers' figures beside those measured here. Reads results, never trains."""

from tailcut.reports.tables.paper_tables import ReproducedRow as ReproducedRow
from tailcut.reports.tables.paper_tables import ReproduceReport as ReproduceReport
from tailcut.reports.tables.paper_tables import Wanted as Wanted
from tailcut.reports.tables.paper_tables import make_table as make_table
from tailcut.reports.tables.paper_tables import start_is_older as start_is_older
from tailcut.reports.tables.paper_tables import start_of as start_of
from tailcut.reports.tables.paper_tables import table_of as table_of
from tailcut.reports.tables.records import by_name as by_name
from tailcut.reports.tables.records import experiment_records as experiment_records
from tailcut.reports.tables.records import find_results as find_results
from tailcut.reports.tables.records import read_records as read_records
from tailcut.reports.tables.records import records_folder as records_folder
from tailcut.reports.tables.seeds import SeedMean as SeedMean
from tailcut.reports.tables.seeds import same_training as same_training
from tailcut.reports.tables.seeds import seed_means as seed_means
from tailcut.reports.tables.table5 import table5 as table5
