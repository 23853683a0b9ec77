"""The console: what officers, reviewers, data-protection officers and supervisors of a node work with, in a browser.

Server-rendered pages, and the same operations as a described API for programs. Both call `nodes.console.operations`,
which acts for one signed-in person through the casework desk and the running node.
"""
