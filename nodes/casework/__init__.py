"""From a candidate to a confirmed match and core data: decisions of persons, and what follows from them.

`nodes.casework.desk.CaseDesk` is the door: command line and console use nothing else. `nodes.casework.courier` does in
the running node what decisions ask for. The rules know nothing of HTTP.
"""
