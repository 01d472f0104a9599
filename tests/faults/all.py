"""All faults, in the order of the table."""

from tests.faults.deaths import DEATHS
from tests.faults.disks import DISKS
from tests.faults.files import FILES
from tests.faults.machines import MACHINES

FAULTS = [*DEATHS, *MACHINES, *DISKS, *FILES]
