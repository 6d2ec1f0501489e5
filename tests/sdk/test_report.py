"""What reports leave in the outbox."""

import math

import pytest

from nsml.core import outbox


def values(node):
    return [dict(report.values) for report in node.reports()]


def test_the_shapes_of_report(node):
    node.run("""
        import nsml
        nsml.report(False, step=1, loss=0.1)
        nsml.report(True, None, step=2, loss=0.2)
        nsml.report(loss=0.3)
        nsml.report(summary=True, scope=locals(), **{'test__acc:': 1, 'band@std': 0.1, 'a.b': 2, '$c': 3, 'd e': 4})
        nsml.report()
    """)
    assert [(r.step, r.summary) for r in node.reports()] == [
        (1, False),
        (2, True),
        (None, False),
        (None, True),
        (None, False),
    ]
    assert values(node)[3] == {"test/acc:": 1, "band@std": 0.1, "a.b": 2, "$c": 3, "d e": 4}
    assert values(node)[4] == {}


def test_numbers_of_any_library_are_numbers(node):
    node.run("""
        import nsml, numpy
        from fractions import Fraction
        class Tensor:
            shape = ()
            def __float__(self): return 1.5
        nsml.report(step=numpy.int64(3), a=1, b=2.5, c=True, d=Tensor(), e=numpy.float32(0.5), f=numpy.int8(7),
                    g=numpy.array(2.0), h=Fraction(1, 4))
    """)
    (report,) = node.reports()
    assert report.step == 3
    assert dict(report.values) == {"a": 1, "b": 2.5, "c": 1, "d": 1.5, "e": 0.5, "f": 7, "g": 2, "h": 0.25}


def test_nan_infinities_and_large_integers(node):
    node.run("""
        import nsml
        nsml.report(step=1, nan=float('nan'), inf=float('inf'), low=-float('inf'))
        nsml.report(step=2, exact=2**53 + 1, big=2**70, huge=10**5000, less=-10**5000, nan=float('nan'))
    """)
    first, second = values(node)
    assert math.isnan(first["nan"]) and first["inf"] == math.inf and first["low"] == -math.inf
    assert second["exact"] == 2**53 + 1 and second["big"] == 2**70 and math.isnan(second["nan"])
    assert second["huge"] == math.inf and second["less"] == -math.inf


def test_lists_and_text_are_kept_and_none_is_left_out(node):
    node.run("""
        import nsml, numpy
        nsml.report(step=1, v=[1, numpy.float32(2), float('nan')], t=(1, 2), text='héllo', gone=None)
    """)
    (report,) = values(node)
    assert report["v"][:2] == [1, 2] and math.isnan(report["v"][2]) and report["t"] == [1, 2]
    assert report["text"] == "héllo" and "gone" not in report


@pytest.mark.parametrize(
    "value", ["numpy.zeros(3)", "object()", "{'a': 1}", "['x']", "[[1], [2]]", "b'x'", "1j", "Vector()"]
)
def test_what_is_not_one_number_is_a_type_error(node, value):
    said = node.run(f"""
        import nsml, numpy
        class Vector:
            def __float__(self): raise ValueError('only one element tensors can be converted')
        try: nsml.report(step=1, before=1, strange={value})
        except TypeError as error: print('TYPEERROR', error)
        nsml.report(step=2, after=1)
    """)
    assert "TYPEERROR nsml.report(strange=" in said
    assert values(node) == [{"after": 1}]


def test_the_time_is_the_platforms_to_tell(node):
    node.run("import nsml; nsml.report(step=1, walltime=5)")
    (report,) = node.reports()
    assert dict(report.values)["walltime"] == pytest.approx(report.at, abs=5)


@pytest.mark.parametrize(
    ("step", "expected"), [("'7'", 7), ("'last'", None), ("float('nan')", None), ("object()", None)]
)
def test_a_step_that_is_no_number_counts_by_itself(node, step, expected):
    node.run(f"import nsml; nsml.report(step={step}, a=1)")
    assert [report.step for report in node.reports()] == [expected]


def test_the_scope_is_kept_by_reference_alone(node):
    node.run("""
        import nsml, threading
        from nsml.sdk.session import Bound
        scope = {'lock': threading.Lock()}
        nsml.report(step=1, scope=scope, a=1)
        nsml.report(step=2, a=1)
        assert Bound.scope is scope
    """)


def test_kill_9_loses_no_report_that_returned(node):
    node.run(
        """
        import nsml, os, signal
        for i in range(30_000): nsml.report(step=i, a=i, b=2.0, c=3.0)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        code=-9,
    )
    assert [report.step for report in node.reports()] == list(range(30_000))


def test_kill_9_at_any_moment_leaves_whole_records(node):
    said = node.run(
        """
        import nsml, os, signal, threading, time
        threading.Thread(target=lambda: (time.sleep(0.2), os.kill(os.getpid(), signal.SIGKILL))).start()
        i = 0
        while True:
            nsml.report(step=i, a=i, text='x' * (i % 50)) if i % 7 == 0 else nsml.report(step=i, a=i)
            i += 1
            if i % 100 == 0: os.write(1, b'%d\\n' % i)
        """,
        code=-9,
    )
    returned = int(said.split()[-1])
    steps = [report.step for report in node.reports()]
    assert steps == list(range(len(steps))) and len(steps) >= returned


def test_threads_share_an_outbox(node):
    node.run("""
        import nsml, threading
        def work(k):
            for i in range(2_000): nsml.report(step=i, **{f'loss_{k}': i, 'shared': k})
        threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
        for t in threads: t.start()
        for t in threads: t.join()
    """)
    for k in range(8):
        steps = [r.step for r in node.reports() if f"loss_{k}" in dict(r.values)]
        assert steps == list(range(2_000))
    assert all(dict(r.values)["shared"] == int(r.values[0][0][5:]) for r in node.reports())


def test_a_forked_child_has_an_outbox_of_its_own(node):
    said = node.run("""
        import nsml, os
        nsml.report(step=1, who=0)
        children = []
        for k in (1, 2):
            pid = os.fork()
            if pid == 0:
                for i in range(100): nsml.report(step=i, who=k)
                os._exit(0)
            children.append(pid)
        for pid in children: os.waitpid(pid, 0)
        nsml.report(step=2, who=0)
        print(*children)
    """)
    files = {file.name for file in node.spool.glob("outbox*")}
    assert files == {"outbox", *(f"outbox.p{pid}" for pid in said.split())}
    main, _, _ = outbox.read((node.spool / "outbox").read_bytes(), {})
    assert [r.step for r in main if isinstance(r, outbox.Report)] == [1, 2]
    assert len(node.reports()) == 202


def test_a_process_started_beside_has_an_outbox_of_its_own(node):
    node.run("""
        import nsml, subprocess, sys
        nsml.report(step=1, who=0)
        subprocess.run([sys.executable, '-c', 'import nsml; nsml.report(step=1, who=1)'], check=True)
        nsml.report(step=2, who=0)
    """)
    assert [v["who"] for v in values(node)] == [0, 0, 1]


def test_a_process_started_after_goes_on_in_the_same_file(node):
    for name in ("a", "b"):
        node.run(f"import nsml; nsml.report(step=1, {name}=1); nsml.report(step=2, {name}=1)")
    assert [file.name for file in node.spool.glob("outbox*")] == ["outbox"]
    assert values(node) == [{"a": 1}, {"a": 1}, {"b": 1}, {"b": 1}]


def test_a_signal_handler_may_report_while_a_report_is_written(node):
    node.run("""
        import itertools, nsml, signal
        rings = itertools.count()                           # a ring may interrupt a ring
        def ring(*_):
            count = next(rings)
            nsml.report(step=count, bell=1)
            nsml.report(step=count, text='x')
        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        for i in range(60_000): nsml.report(step=i, a=i)
        signal.setitimer(signal.ITIMER_REAL, 0)
    """)
    plain = [r.step for r in node.reports() if r.values[0][0] == "a"]
    bells = [r.step for r in node.reports() if r.values[0][0] == "bell"]
    assert plain == list(range(60_000))
    assert sorted(bells) == list(range(len(bells))) and len(bells) > 10


def test_an_interrupt_in_the_middle_leaves_the_outbox_whole(node):
    said = node.run("""
        import nsml, signal
        class Ring(Exception): pass
        def ring(*_): raise Ring
        signal.signal(signal.SIGALRM, ring)
        rings = i = 0
        while rings < 200:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0007)
                while True:
                    nsml.report(step=i, a=i, **({'odd': 1} if i % 2 else {}))
                    i += 1
            except Ring: rings += 1
        for k in range(10): nsml.report(step=-1, a=k)
        print(i)
    """)
    reports = node.reports()
    assert [dict(r.values)["a"] for r in reports[-10:]] == list(range(10))
    assert {r.step for r in reports} >= set(range(int(said.split()[-1])))


def test_names_made_up_for_ever_do_not_grow_layouts_for_ever(node):
    node.run("import nsml\nfor i in range(1_000): nsml.report(step=i, **{f'n{i}': i})")
    assert values(node) == [{f"n{i}": i} for i in range(1_000)]
    data = (node.spool / "outbox").read_bytes()
    assert len(outbox.read(data, {})[2]) == 200


def test_a_large_report_finds_room(node):
    node.run("import nsml; nsml.report(step=1, text='x' * 3_000_000); nsml.report(step=2, a=1)")
    assert [len(str(v.get("text", ""))) for v in values(node)] == [3_000_000, 0]


def test_a_report_too_large_for_a_reader_is_dropped_with_a_warning(node):
    said = node.run("import nsml; nsml.report(step=1, text='x' * (65 << 20)); nsml.report(step=2, a=1)")
    assert "NSML warning" in said and values(node) == [{"a": 1}]


def test_a_disk_without_room_costs_reports_and_one_warning(node):
    said = node.run("""
        import nsml, resource
        nsml.report(step=0, a=1, b=2, c=3)
        resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, 70_000))
        for i in range(1, 5_000): nsml.report(step=i, a=1, b=2, c=3)
        nsml.report(step=1, text='x' * 100_000)
        print('THROUGH')
    """)
    assert "THROUGH" in said and said.count("NSML warning") == 1
    steps = [report.step for report in node.reports()]
    assert steps == list(range(len(steps))) and 500 < len(steps) < 5_000


def test_a_spool_that_cannot_be_written_costs_reports_and_one_warning(node):
    said = node.run(
        "import nsml\nfor i in range(9): nsml.report(step=i, a=1)\nnsml.bind(save=print); nsml.save(1); print('THROUGH')",
        NSML_SPOOL="/proc/nowhere",
    )
    assert "THROUGH" in said and said.count("reports are dropped") == 1
