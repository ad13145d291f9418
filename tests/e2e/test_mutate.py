#!/usr/bin/env python3
"""test_mutate.py - a run of mutations goes on with what another has left."""
import types

from hearthlib import *

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "mutate"))
import run as mutate


def entry(name):
    return types.SimpleNamespace(name=name, reason=[], key=lambda tree: tree + name)


def left(text):
    """The names that are still to do, and the words of those that are done, after this was left."""
    mutate.RESULTS = os.path.join(tmpdir(), "results")
    if text is not None:
        with open(mutate.RESULTS, "w") as f:
            f.write(text)
    r = mutate.Run([entry(n) for n in "abc"], None, "T")
    r.resume()
    return [e.name for e in r.todo], [(e.name, word) for word, e, _ in r.done]


def line(name, word="caught", tree="T"):
    return json.dumps({"key": tree + name, "name": name, "word": word, "what": "x", "who": "s:" + name}) + "\n"


def what_is_left_is_taken_but_for_errors_and_other_trees():
    check_eq(left(None), (["a", "b", "c"], []), "nothing left")
    check_eq(left(line("a") + line("b", "error") + line("c", tree="U")), (["b", "c"], [("a", "caught")]), "one is good")


def a_torn_line_costs_itself_alone():
    torn = line("b")[:20]
    check_eq(left(line("a") + torn), (["b", "c"], [("a", "caught")]), "at the end")
    with open(mutate.RESULTS, "a") as f:
        f.write(line("c"))
    check_eq([x["name"] for x in mutate.results()], ["a", "c"], "what is written behind it")
    check_eq(left(line("a") + torn + "\n" + line("c", "SURVIVED")), (["b"], [("a", "caught"), ("c", "SURVIVED")]), "in the middle")


main(what_is_left_is_taken_but_for_errors_and_other_trees, a_torn_line_costs_itself_alone)
