"""Binding, saving and loading, in every shape that scripts use."""

import re

import pytest

OTHER = "alice/digits/3"

HEAD = "import nsml, os, pickle, sys, types, io\nvalue = {'k': 7}\n"
DUMP = "with open({}, 'wb') as f: pickle.dump(value, f)"
READ = "with open({}, 'rb') as f: return pickle.load(f)"
INSIDE = "os.path.join(path, 'm')"
ERAS = {
    "a file at the path": (DUMP.format("path"), READ.format("path"), ["model"]),
    "makedirs without exist_ok": ("os.makedirs(path); " + DUMP.format(INSIDE), READ.format(INSIDE), ["m"]),
    "a fresh directory, the single file back": (
        "os.makedirs(path); " + DUMP.format(INSIDE),
        READ.format("path"),
        ["m"],
    ),
    "makedirs with exist_ok": (
        "os.makedirs(path, exist_ok=True); " + DUMP.format(INSIDE),
        READ.format(INSIDE),
        ["m"],
    ),
    "a directory that is there": (DUMP.format(INSIDE), READ.format(INSIDE), ["m"]),
    "two files, a directory": (
        "open(path + '/n', 'w').close(); " + DUMP.format(INSIDE),
        READ.format(INSIDE),
        ["m", "n"],
    ),
    "a suffix of its own": (DUMP.format("path + '.npz'"), READ.format("path + '.npz'"), ["model.npz"]),
    "an error that says so in words": (
        "assert not os.path.exists(path), 'File ' + path + ' cannot be opened'; " + DUMP.format("path"),
        "assert os.path.isfile(path), path + ' is a directory'; " + READ.format("path"),
        ["model"],
    ),
}


def body(statements):
    return "\n".join("    " + line for line in statements.replace("; with", "\nwith").split("\n"))


@pytest.mark.parametrize("era", ERAS)
def test_save_and_load_functions_get_the_path_of_their_era(era, node):
    saving, loading, files = ERAS[era]
    script = HEAD + f"def save(path):\n{body(saving)}\ndef load(path):\n{body(loading)}\n"
    said = node.run(
        script + "nsml.bind(save=save, load=load)\nnsml.save('best')\nprint('GOT', nsml.load('best'))"
    )
    assert "GOT {'k': 7}" in said
    assert node.checkpoints() == {"best": files}


def test_every_shape_of_bind(node):
    said = node.run("""
        import nsml, os, types
        w = lambda path: open(os.path.join(path, 'f'), 'w').write('1')
        r = lambda path: print('READ', open(os.path.join(path, 'f')).read())
        nsml.save(10); print('UNBOUND ok')
        nsml.bind(w, r, lambda x: x + 1); nsml.save('a'); nsml.load('a'); print('THREE', nsml.infer(1))
        nsml.bind(w, r, lambda x: x + 2, lambda: 0, lambda y: y); print('FIVE', nsml.infer(1))
        nsml.bind(save=w, load=r, infer=lambda x: x + 3, use_nsml_legacy=False, anything=object())
        nsml.save('b'); print('KEYWORDS', nsml.infer(1))
        def many(dir_name, **kwargs):
            open(os.path.join(dir_name, 'kw'), 'w').write('1'); print('KWARGS', sorted(kwargs))
        def one(dir_name, extra, other=None): print('NAMED', extra, other)
        nsml.bind(save=many, load=one, extra=1, dir_name=2); nsml.save('kw', more=3); nsml.load('kw', other=4, more=5)
        nsml.bind(save=w, load=r)
        nsml.save(); nsml.save(None); nsml.save('fn', save_fn=lambda path: open(os.path.join(path, 'g'), 'w').close())
        nsml.save(checkpoint='named'); nsml.save(iteration='older'); nsml.load(iteration='older')
        nsml.save(3); nsml.load('3'); nsml.save('4'); nsml.load(4)
        nsml.load('fn', load_fn=lambda path: print('FN', os.listdir(path)))
        print('ALL done')
    """)
    marks = (
        "UNBOUND ok",
        "READ 1",
        "THREE 2",
        "FIVE 3",
        "KEYWORDS 4",
        "KWARGS ['extra', 'more']",
        "NAMED 1 4",
        "FN ['g']",
    )
    assert [mark for mark in marks if mark not in said] == [] and "ALL done" in said
    named = {"a", "b", "kw", "fn", "named", "older", "3", "4"}
    timed = set(node.checkpoints()) - named
    assert set(node.checkpoints()) >= named and timed
    assert all(re.fullmatch(r"\d{8}_\d{6}_\d{3}", name) for name in timed), "without a name, the time is one"
    assert said.count("NSML warning") == 1, said


def test_a_load_without_a_name_gets_the_latest(node):
    said = node.run("""
        import nsml
        nsml.bind(save=lambda path: open(path + '/f', 'w').write(value), load=lambda path: open(path + '/f').read())
        value = 'one'; nsml.save('a'); value = 'two'; nsml.save()
        print('GOT', nsml.load())
    """)
    assert "GOT two" in said


def test_infer_gets_what_it_is_called_with(node):
    said = node.run("""
        import nsml
        nsml.bind(infer=lambda *args, **kwargs: (args, kwargs), model=1)
        print(nsml.infer(1, 2, phase='test'))
    """)
    assert "((1, 2), {'phase': 'test'})" in said


def test_infer_with_nothing_bound_warns(node):
    assert "NSML warning" in node.run("import nsml; assert nsml.infer(1) is None")


def test_a_later_bind_of_one_function_leaves_the_others(node):
    node.run("""
        import nsml
        nsml.bind(save=lambda path: open(path + '/f', 'w').close())
        nsml.bind(infer=len)
        nsml.save(1)
    """)
    assert node.checkpoints() == {"1": ["f"]}


def test_objects_bound_by_name_are_saved_by_themselves(node):
    said = node.run("""
        import nsml, types
        class Network:                                      # as torch modules do it
            state = {'w': 1}
            def state_dict(self): return self.state
            def load_state_dict(self, state): self.state = state
        class Layers:                                       # as Keras models do it
            text = 'deep'
            def save_weights(self, path): open(path, 'w').write(self.text)
            def load_weights(self, path): self.text = open(path).read()
        net, layers, box, config, items = Network(), Layers(), types.SimpleNamespace(a=1), {'x': 1}, [1, 2]
        nsml.bind(save=print, load=print)
        nsml.bind(net=net, layers=layers, box=box, config=config, items=items, file=open('/dev/null'), lr=0.1)
        nsml.save('obj')
        net.state, layers.text, box.a = {}, '', 0; config.clear(); config['y'] = 1; items.clear()
        nsml.load('obj')
        print('BACK', net.state, layers.text, box.a, config, items)
    """)
    assert "BACK {'w': 1} deep 1 {'x': 1} [1, 2]" in said
    assert "NSML warning: file cannot be saved" in said
    assert node.checkpoints()["obj"] == [
        "box.pickle",
        "config.pickle",
        "items.pickle",
        "layers.weights.h5",
        "net.pickle",
    ]


def test_a_scikit_learn_model_is_saved_by_itself(node):
    said = node.run("""
        import nsml
        from sklearn.linear_model import LogisticRegression
        model = LogisticRegression().fit([[0], [1]], [0, 1])
        nsml.bind(model=model); nsml.save(1)
        model.coef_ = model.coef_ * 0
        nsml.load(1); print('BACK', model.predict([[0], [1]]))
    """)
    assert "BACK [0 1]" in said


def test_what_was_saved_again_is_loaded_anew(node):
    said = node.run("""
        import nsml
        nsml.bind(save=lambda p: open(p + '/f', 'w').write(str(epoch)), load=lambda p: print('GOT', open(p + '/f').read()))
        for epoch in range(3): nsml.save('best'); nsml.load('best')
    """)
    assert said.split() == ["GOT", "0", "GOT", "1", "GOT", "2"]
    assert len(list((node.spool / "loads").iterdir())) == 1


def test_other_sessions_checkpoints_are_fetched_once(node):
    for k in range(3):
        node.put(OTHER, str(k), f=str(k))
    said = node.run(f"""
        import nsml
        got = [nsml.load(i % 3, load_fn=lambda p: int(open(p + '/f').read()), session='{OTHER}') for i in range(30)]
        print('SUM', sum(got))
    """)
    assert "SUM 30" in said and len(node.asked) == 3


def test_a_missing_checkpoint_is_a_key_error(node):
    said = node.run("""
        import nsml
        nsml.bind(load=print)
        try: nsml.load('nope')
        except KeyError as error: print('KEYERROR', error)
    """)
    assert "No model: alice/digits/7/nsml_model/nope," in said


def test_a_save_function_that_writes_nothing_makes_an_empty_checkpoint(node):
    node.run("import nsml; nsml.bind(save=lambda path: None); nsml.save(1)")
    assert node.checkpoints() == {"1": []}


@pytest.mark.parametrize("name", ["../../evil", "/etc/passwd", "a/../b", "a//b", "a\nb", "x" * 201, "."])
def test_a_name_that_leads_elsewhere_is_refused(name, node):
    node.run(f"""
        import nsml
        nsml.bind(save=lambda p: open(p + '/f', 'w').close())
        try: nsml.save({name!r}); raise SystemExit(1)
        except ValueError as error: print(error)
        nsml.save('fold/5')
    """)
    assert set(node.checkpoints()) == {"fold/5"}


def test_numpy_integers_name_checkpoints_like_integers(node):
    node.run("""
        import nsml, numpy
        nsml.bind(save=lambda p: None)
        nsml.save(numpy.int64(3)); nsml.save(numpy.array(4)); nsml.save(0.93)
    """)
    assert set(node.checkpoints()) == {"3", "4", "0.93"}


def test_an_error_of_the_users_function_is_the_users_and_leaves_nothing(node):
    said = node.run("""
        import nsml
        calls = []
        def save(path): calls.append(path); open(path + '/half', 'w').close(); raise ZeroDivisionError('mine')
        nsml.bind(save=save)
        try: nsml.save(1)
        except ZeroDivisionError: print('RAISED', len(calls))
        try: nsml.save(2, save_fn=lambda path: open(path + '/a/b/c', 'w'))
        except FileNotFoundError: print('RAISED too')
    """)
    assert "RAISED 1" in said and "RAISED too" in said
    assert node.checkpoints() == {} and not list((node.spool / "saves").iterdir())


def test_an_error_of_the_load_function_is_the_users(node):
    node.put(OTHER, "1", f="x")
    said = node.run(f"""
        import nsml
        def corrupt(path): raise RuntimeError('not a model')
        def absent(path): open(path + '/weights')
        for wrong in (corrupt, absent):
            try: nsml.load(1, load_fn=wrong, session='{OTHER}')
            except Exception as error: print(type(error).__name__, error)
    """)
    assert "RuntimeError not a model" in said and "FileNotFoundError" in said and "/weights'" in said


def test_a_full_disk_costs_the_checkpoint_and_not_the_training(node):
    said = node.run("""
        import errno, nsml
        def save(path): open(path + '/f', 'w').write('half'); raise OSError(errno.ENOSPC, 'No space left on device')
        nsml.bind(save=save); nsml.save(1); print('THROUGH')
    """)
    assert "NSML warning: checkpoint 1 was not saved" in said and "THROUGH" in said
    assert node.checkpoints() == {} and not list((node.spool / "saves").iterdir())


def test_a_folder_can_be_saved_as_it_is(node):
    node.run("""
        import nsml, os
        os.makedirs('out/sub'); open('out/a', 'w').close(); open('out/sub/b', 'w').close()
        nsml.save_folder('whole', 'out')
    """)
    assert node.checkpoints() == {"whole": ["a", "sub/b"]}


def test_saves_of_processes_beside_each_other_do_not_meet(node):
    node.run("""
        import nsml, os
        nsml.bind(save=lambda p: open(p + '/f', 'w').close())
        for k in range(3):
            if os.fork() == 0:
                nsml.save(k); os._exit(0)
        for k in range(3): os.wait()
        nsml.save('main')
    """)
    assert set(node.checkpoints()) == {"0", "1", "2", "main"}


def test_relative_spools_and_changes_of_folder_do_no_harm(node):
    node.run(
        """
        import nsml, os
        os.chdir('/')
        nsml.bind(save=lambda p: open(p + '/f', 'w').close(), load=lambda p: open(p + '/f').close())
        nsml.save(1); nsml.load(1); nsml.report(a=1)
        """,
        NSML_SPOOL="spool",
    )
    assert set(node.checkpoints()) == {"1"} and len(node.reports()) == 1
