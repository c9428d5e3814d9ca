"""Bad days in a row, with real processes: ``make soak`` draws faults from a seed and counts what they broke.

``stage.py`` runs the processes and starts again what ended, ``kinds.py`` has the faults, ``observe.py`` watches token
calls and what is stored, ``rounds.py`` plays the rounds, and ``__main__.py`` prints the table.
"""
