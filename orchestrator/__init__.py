"""Five rooms, one way: grid -> plan -> execute -> record -> results."""

from trainables.start import quiet_start

quiet_start()
