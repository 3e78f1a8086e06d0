"""A distiller can be looked at: as a graph, a picture without overlaps, a formula and a sentence."""

import io
import itertools
import random
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib
import networkx
import pytest
import resvg_py
from matplotlib.mathtext import MathTextParser
from PIL import Image

from kdzero_gp.compiler import Expression, PairShapes, parse, terms, zoo
from kdzero_gp.compiler.checking import check, type_of
from kdzero_gp.draw import (
    SUFFIXES,
    bullets,
    describe,
    graph,
    to_dot,
    to_latex,
    to_mermaid,
    to_png,
    to_svg,
    write,
)
from kdzero_gp.draw.diagrams import escape_dot, escape_mermaid
from kdzero_gp.draw.drawing import Drawing
from kdzero_gp.draw.labels import text_width
from kdzero_gp.draw.layout import scene
from kdzero_gp.draw.style import FONT_FAMILY, ROLES, SLANT, Rectangle, indent
from kdzero_gp.errors import ExpressionError, RunError, SettingError, ShapeError
from primitives import CATALOGUE, CONSTANTS
from strategies import IMAGE_ZOO

SIZES = [3, *range(4, 60, 2), 60]
PAIR = PairShapes(
    {"logits": (10,), "emb": (64,), "feat": (16, 8, 8)}, {"logits": (10,), "emb": (512,), "feat": (512, 4, 4)}
)
SVG = "{http://www.w3.org/2000/svg}"
# Half a point: less than any reader sees, more than fonts differ between sizes by hinting.
TOLERANCE = 0.5


def plain(role):
    """The operations for any pair; pictures of those for label maps are among the zoo's."""
    return [operation for operation in CATALOGUE.of_role(role) if not operation.dense]


def grown(generator, node, transforms):
    """``node`` under some transforms; fewer where none fits."""
    for _ in range(transforms):
        given = type_of(node)
        fitting = [op for op in plain("transform") if any(k[0] == given for k in op.overloads)]
        if not fitting:
            break
        node = applied(generator, generator.choice(fitting), node)
    return node


def applied(generator, operation, node):
    numbers = [generator.choice(CONSTANTS[kind]) for kind in operation.parameters]
    return Expression(operation.name, (node, *numbers))


def random_comparison(generator, transforms):
    """A distance over a chain; chains that no distance takes are drawn again."""
    while True:
        leaf = Expression(generator.choice(["logits", "emb", "feat", "feat1"]))
        below = grown(generator, leaf, transforms)
        given = (type_of(below),)
        fitting = [operation for operation in plain("distance") if given in operation.overloads]
        if fitting:
            return Expression(generator.choice(fitting).name, (below,))


def random_term(generator, transforms):
    """A weighted loss."""
    losses = random_comparison(generator, transforms)
    given = (type_of(losses),)
    fitting = [operation for operation in plain("calibration") if given in operation.overloads]
    weighted = Expression(generator.choice(fitting).name, (losses,))
    return applied(generator, CATALOGUE["times"], weighted)


def random_tree(size, seed):
    """A well-typed tree of exactly ``size`` nodes: of 3 or 4 a comparison, otherwise a distiller."""
    generator = random.Random(seed)
    while True:
        if size < 5:
            tree = random_comparison(generator, size - 2)
        else:
            parts = [random_term(generator, generator.randint(0, 6))]
            while sum(part.size for part in parts) + len(parts) - 1 < size - generator.choice([0, 6, 12]):
                parts.append(random_term(generator, generator.randint(0, 6)))
            while len(parts) > 1:  # sums of any shape, not only those that lean to the left
                index = generator.randrange(len(parts) - 1)
                parts[index : index + 2] = [Expression("add", tuple(parts[index : index + 2]))]
            (tree,) = parts
        if tree.size == size:
            return tree


ZOO = [pytest.param(tree, id=name) for name, tree in IMAGE_ZOO.items()]
TREES = [*ZOO, *(pytest.param(random_tree(size, seed=size), id=f"random-{size}") for size in SIZES)]


def inner(node):
    """The part of a node's box in which its slanted outline leaves room for text."""
    slant = SLANT if ROLES[node.role].shape in ("hexagon", "parallelogram") else 0.0
    return Rectangle(node.box.left + slant, node.box.top, node.box.width - 2 * slant, node.box.height)


def pieces(edge):
    """Small boxes along an edge."""
    for (x, y), (to_x, to_y) in itertools.pairwise(edge.points):
        yield Rectangle(min(x, to_x) - 0.5, min(y, to_y) - 0.5, abs(to_x - x) + 1, abs(to_y - y) + 1)


def overlap(one, other):
    """Whether two rectangles share more than an edge."""
    apart = one.right <= other.left or other.right <= one.left
    return not (apart or one.bottom <= other.top or other.bottom <= one.top)


def inside(inner_one, outer):
    """Whether a rectangle lies inside of another one, edges included."""
    within = outer.left <= inner_one.left and inner_one.right <= outer.right
    return within and outer.top <= inner_one.top and inner_one.bottom <= outer.bottom


def layout(tree, direction="auto", **known):
    """The geometry of a picture."""
    return scene(Drawing(tree, **known).root, direction)


def core(node):
    """The part of a node that no edge may touch: without the outline, where edges end."""
    sideways = 1.0 + indent(ROLES[node.role].shape, node.box)
    return Rectangle(node.box.left + sideways, node.box.top + 1, node.box.width - 2 * sideways, node.box.height - 2)


# --- pictures -----------------------------------------------------------------------------------------------


def test_random_trees_have_the_wanted_sizes_and_types():
    for size in SIZES:
        tree = random_tree(size, seed=size)
        assert tree.size == size
        if size >= 5:
            check(tree)


@pytest.mark.parametrize("direction", ["auto", "right", "up"])
@pytest.mark.parametrize("tree", TREES)
def test_nothing_overlaps_and_nothing_is_cut(tree, direction):
    drawn = layout(tree, direction=direction)
    page = Rectangle(0, 0, drawn.width, drawn.height)
    assert len(drawn.nodes) == sum(1 for _ in tree.walk())
    legend = [box for entry in drawn.entries for box in (entry.swatch, entry.text_box)]
    separate = [*(node.box for node in drawn.nodes), drawn.out.box, *legend]
    assert all(inside(box, page) for box in separate)
    assert not [pair for pair in itertools.combinations(separate, 2) if overlap(*pair)]
    for node in drawn.nodes:
        texts = [text.box for text in node.texts]
        assert all(inside(box, inner(node)) for box in [*texts, *node.tags])
        assert not [pair for pair in itertools.combinations(texts, 2) if overlap(*pair)]
    for edge in drawn.edges:
        covered = [*map(core, drawn.nodes), drawn.out.box, *legend]
        for piece in pieces(edge):
            assert inside(piece, page)
            assert not [box for box in covered if overlap(box, piece)]


def ink_of(text):
    """The width of a text's pixels, in points: what the renderer of pictures makes of one line in the layout's font."""
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="600" height="40" font-family="{FONT_FAMILY}">'
        f'<text x="20" y="28" font-size="{text.size}">{text.text}</text></svg>'
    )
    files = [str(fonts / "DejaVuSans.ttf")]
    image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg, zoom=4, skip_system_fonts=True, font_files=files))))
    left, _, right, _ = image.getchannel("A").getbbox()
    return (right - left) / 4


@pytest.mark.parametrize("tree", [zoo["dkd"], random_tree(60, seed=60)])
def test_drawn_text_is_as_large_as_the_layout_says(tree):
    for node in layout(tree).nodes:
        for text in node.texts:
            assert 0.8 * text.box.width - TOLERANCE <= ink_of(text) <= 1.02 * text.box.width + 2 * TOLERANCE, text.text


def colours_of(image):
    return {"#{:02x}{:02x}{:02x}".format(*colour) for _, colour in image.convert("RGB").getcolors(1 << 24)}


def test_png_has_the_colours_of_every_role_and_its_texts():
    with_texts = Image.open(io.BytesIO(to_png(zoo["dkd"])))
    roles = {ROLES[role].fill for role in ("knowledge", "transform", "distance", "calibration")}
    assert roles <= colours_of(with_texts)
    drawn = layout(zoo["dkd"])
    for node in drawn.nodes:
        for text in node.texts:
            box = text.box
            corners = (2 * box.left, 2 * box.top, 2 * box.right, 2 * box.bottom)
            assert len(with_texts.crop(tuple(map(round, corners))).getcolors(1 << 16)) > 3, text.text


def test_pair_of_different_shapes_is_written_into_the_nodes():
    tree = parse("times(no(l2(norm_HW(mean_C(pow2(feat))))), 1)")
    found = graph(tree, shapes=PAIR)
    assert found.nodes[6]["shape"] == ("N×16×8×8", "N×512×4×4")
    assert found.nodes[6]["adapter"] == "pooled to 4×4"
    assert found.nodes[4]["shape"] == ("N×1×4×4", "N×1×4×4")
    assert found.nodes[2]["shape"] == ()
    svg = to_svg(tree, shapes=PAIR)
    assert ">S N×16×8×8<" in svg
    assert ">student pooled to 4×4<" in svg


@pytest.mark.parametrize("name", IMAGE_ZOO)
def test_picture_with_shapes_has_no_overlap(name):
    drawn = layout(zoo[name], shapes=PAIR)
    boxes = [node.box for node in drawn.nodes]
    assert not [pair for pair in itertools.combinations(boxes, 2) if overlap(*pair)]
    assert all(inside(text.box, inner(node)) for node in drawn.nodes for text in node.texts)


@pytest.mark.parametrize("tree", TREES)
def test_svg_is_xml_with_every_label_as_text(tree):
    root = ElementTree.fromstring(to_svg(tree))
    assert root.find(f"{SVG}title").text == str(tree)
    assert root.find(f"{SVG}desc").text == describe(tree)
    texts = [element.text for element in root.iter(f"{SVG}text")]
    for node in tree.walk():
        if node.name == "times":
            assert f"× {node.arguments[1]:g}" in texts
        else:
            assert {"add": "+"}.get(node.name, node.name) in texts
    assert not list(root.iter(f"{SVG}image"))


@pytest.mark.parametrize("name", IMAGE_ZOO)
def test_svgs_have_no_ids_so_that_a_page_can_hold_any_number_of_them(name):
    assert not [element for element in ElementTree.fromstring(to_svg(zoo[name])).iter() if "id" in element.attrib]


@pytest.mark.parametrize("tree", [zoo["mse"], zoo["rkd"], random_tree(60, seed=60)])
def test_png_decodes_and_is_sharp(tree):
    drawn = layout(tree)
    image = Image.open(io.BytesIO(to_png(tree)))
    image.load()
    assert image.width == pytest.approx(drawn.width * 2, abs=2)
    assert image.height == pytest.approx(drawn.height * 2, abs=2)
    assert image.info["dpi"][0] >= 143.9


def test_png_is_the_same_every_time():
    assert to_png(zoo["at"]) == to_png(zoo["at"])


@pytest.mark.parametrize(("draw", "options"), [(to_svg, {"direction": "left"}), (to_png, {"dpi": 0})])
def test_setting_without_sense_gets_a_sentence(draw, options):
    with pytest.raises(SettingError, match="choose"):
        draw(zoo["kd"], **options)


# --- colours ------------------------------------------------------------------------------------------------


def linear(colour):
    channels = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]


def luminance(colour):
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear(colour), strict=True))


def lightness(colour):
    return 116 * luminance(colour) ** (1 / 3) - 16


def test_roles_differ_in_lightness_and_shape_for_print_without_colour():
    roles = [ROLES[role] for role in ("knowledge", "transform", "distance", "calibration")]
    for one, other in itertools.combinations(roles, 2):
        assert abs(lightness(one.fill) - lightness(other.fill)) >= 12
        assert one.shape != other.shape


@pytest.mark.parametrize("role", ROLES)
def test_text_has_the_contrast_that_wcag_asks_for(role):
    lights = sorted([luminance(ROLES[role].fill), luminance(ROLES[role].ink)])
    assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 4.5


# --- graph and profile --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tree", TREES)
def test_graph_is_the_tree_in_prefix_order(tree):
    found = graph(tree)
    assert found.number_of_nodes() == tree.size
    assert list(found.nodes) == list(range(tree.size)) == list(networkx.dfs_preorder_nodes(found, 0))
    assert networkx.is_arborescence(found) or tree.size == 1
    assert sum(role == "constant" for _, role in found.nodes(data="role")) == tree.size - sum(1 for _ in tree.walk())
    # the text of the tree can be read back from the graph
    assert written(found, 0) == str(tree)


def written(found, index):
    below = [written(found, child) for child in found.successors(index)]
    label = found.nodes[index]["label"]
    return f"{label}({', '.join(below)})" if below else label


def test_graph_knows_types():
    found = graph(zoo["kd"])
    assert found.nodes[4]["type"] == "N×C matrix of logits"
    assert found.nodes[5]["type"] == "a temperature"
    assert found.nodes[3]["type"] == "N×C matrix of probabilities over C"


@pytest.mark.parametrize("tree", TREES)
def test_graph_of_any_distiller_takes_the_shapes_of_a_pair(tree):
    side = dict(PAIR.student) | {"feat1": (32, 16, 16)}
    found = graph(tree, shapes=PairShapes(side, side))
    if tree.size < 5:
        return
    for _, facts in found.nodes(data=True):
        paired = facts["role"] in ("knowledge", "transform")
        assert len(facts["shape"]) == (2 if paired else 0)
        assert not paired or facts["shape"][0] == facts["shape"][1]
        assert facts["adapter"] == ""


def test_graph_of_an_ill_typed_tree_is_an_error():
    with pytest.raises(ExpressionError):
        graph(Expression("kl", (Expression("logits"),)))


def test_shapes_that_cannot_be_matched_are_an_error():
    maps = {"feat": (4, 2, 2)}
    with pytest.raises((ShapeError, ExpressionError)):
        graph(zoo["kd"], shapes=PairShapes(maps, maps))


# --- diagrams -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tree", TREES)
def test_dot_names_every_node_and_every_way(tree):
    text = to_dot(tree)
    count = sum(1 for _ in tree.walk())
    assert text.count("[label=") == count
    assert len(re.findall(r"^  n\d+ -> n\d+", text, re.MULTILINE)) == count - 1
    for line in text.splitlines():
        assert len(re.findall(r'(?<!\\)"', line)) % 2 == 0


@pytest.mark.parametrize("tree", TREES)
def test_mermaid_names_every_node_and_every_way(tree):
    text = to_mermaid(tree)
    count = sum(1 for _ in tree.walk())
    assert len(re.findall(r"^  n\d+ (?:==>|-->) n\d+$", text, re.MULTILINE)) == count - 1
    labels = re.findall(r'^  n\d+\W+"(.*)"\W+:::\w+$', text, re.MULTILINE)
    assert len(labels) == count
    for label in labels:
        assert not set(re.sub(r"<br/>|#\d+;", "", label)) & set('"<>&#;[]{}()|`')


def test_hostile_text_cannot_leave_its_quotes():
    hostile = 'a"] --> b\n<script>#1;</script>\\'
    assert escape_dot(hostile) == 'a\\"] --> b\\n<script>#1;</script>\\\\'
    assert not set(re.sub(r"#\d+;", "", escape_mermaid(hostile))) & set('"<>#[]\\\n')


# --- formula and sentence -----------------------------------------------------------------------------------


def some_distiller(operation):
    """A distiller that contains ``operation``."""
    for seed in itertools.count():
        tree = random_tree(11, seed)
        if any(node.name == operation for node in tree.walk()):
            return tree


OPERATIONS = [operation.name for operation in CATALOGUE if not operation.dense]


@pytest.mark.parametrize("operation", CATALOGUE, ids=lambda operation: operation.name)
def test_every_operation_has_its_words_and_formula(operation):
    marks = {"transform": {"<x>"}, "distance": set()}.get(operation.role, set())
    assert operation.words and marks <= set(re.findall("<.>", operation.words))
    marks = {"transform": {"<x>"}, "distance": {"<s>", "<t>"}}.get(operation.role, set())
    assert operation.latex or not operation.needs
    assert marks <= set(re.findall("<.>", operation.latex.replace("<b>", "<x>")))


def test_every_calibration_has_a_note():
    assert all(operation.note for operation in CATALOGUE.of_role("calibration"))


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != "add"])
def test_formula_of_every_operation_renders(operation):
    tree = some_distiller(operation)
    formula = to_latex(tree)
    MathTextParser("path").parse(f"${formula}$")
    assert "<" not in formula


@pytest.mark.parametrize("tree", TREES)
def test_formula_of_every_distiller_renders(tree):
    formula = to_latex(tree)
    MathTextParser("path").parse(f"${formula}$")
    assert not re.search(r"<\w+>", formula)
    assert formula.count(r"\left") == formula.count(r"\right")


def test_formula_of_kd():
    side = r"\mathrm{{softmax}}_{{C}}\left(z_{}/4\right)"
    expected = rf"\mathcal{{L}} = 4^{{2}}\,\mathrm{{KL}}\left({side.format('T')}\,\|\,{side.format('S')}\right)"
    assert to_latex(zoo["kd"]) == expected


def test_long_chains_become_functions_that_terms_share():
    chain = "norm_HW(mean_C(pow2(relu(feat))))"
    formula = to_latex(parse(f"add(times(no(l1({chain})), 1), times(conf(l2({chain})), 5))"))
    assert formula.count(r"\varphi_{1}(F_T)") == 2
    assert formula.count(r"\varphi_{1}(x) =") == 1
    assert r"5\,\mathbb{E}" in formula


@pytest.mark.parametrize("tree", TREES)
def test_sentence_is_plain_english(tree):
    sentence = describe(tree)
    assert not re.search(r"\w_\w|[<>(){}]", sentence)
    assert sentence.endswith(".") and sentence.count(".") == 1 + len(re.findall(r"\d\.\d", sentence))
    assert sentence[0].isupper()
    if tree.size >= 5:
        assert sentence.count("the teacher's ") >= len(terms(tree))
        assert sentence.count("plus the") == len(terms(tree)) - 1


def test_sentence_says_what_is_matched_how_and_with_what_weight():
    assert describe(parse("times(conf(cos(satt(feat))), 5)")) == (
        "Matches the teacher's spatial attention of the last feature map by cosine distance, "
        "weighted by the teacher's confidence, with magnitude 5."
    )


def test_sentence_of_a_part_is_a_phrase():
    assert describe(Expression("relu", (Expression("feat2"),))) == "The positive part of feature map 2."


# --- the numbers of the exported file ------------------------------------------------------------------------

MEASURED = parse("add(times(no(l2(feat)), 10), times(no(l1(emb)), 1))")
NUMBERS = (1477620.0, 0.25)


def test_picture_formula_and_sentence_tell_the_numbers_of_the_file_and_the_relative_ones():
    assert "with magnitude 1.478e+06, relative 10; plus" in describe(MEASURED, numbers=NUMBERS)
    assert "with magnitude 0.25, relative 1." in describe(MEASURED, numbers=NUMBERS)
    formula = to_latex(MEASURED, numbers=NUMBERS)
    assert r"1.478 \times 10^{6}\," in formula and r" 0.25\," in formula
    texts = {element.text for element in ElementTree.fromstring(to_svg(MEASURED, numbers=NUMBERS)).iter(f"{SVG}text")}
    assert {"× 1.478e+06", "relative 10", "× 0.25", "relative 1"} <= texts
    assert "relative" not in describe(MEASURED) and "relative" not in to_svg(MEASURED)


def test_numbers_that_are_what_the_expression_says_are_told_once():
    assert describe(MEASURED, numbers=(10.0, 1.0)) == describe(MEASURED)


def test_a_formula_in_a_file_says_which_numbers_are_relative(tmp_path):
    write(MEASURED, tmp_path / "loss.tex", numbers=NUMBERS)
    text = (tmp_path / "loss.tex").read_text(encoding="utf-8")
    assert "relative to the cross-entropy's gradient they are 10, 1" in text
    assert r"1.478 \times 10^{6}" in text


def test_each_term_has_a_line():
    first, *lines = bullets(MEASURED, numbers=NUMBERS).splitlines()
    assert first == "Matches" and [line.strip()[:2] for line in lines] == ["• ", "• "]
    assert bullets(zoo["kd"]) == describe(zoo["kd"])


# --- files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".SVG"])
def test_suffix_decides_what_is_written(suffix, tmp_path):
    path = tmp_path / f"tree{suffix}"
    write(zoo["rkd"], path)
    starts = {
        ".svg": b"<svg",
        ".png": b"\x89PNG",
        ".pdf": b"%PDF",
        ".dot": b"digraph",
        ".mmd": b"flowchart",
        ".tex": b"%",
        ".txt": b"add(",
    }
    assert path.read_bytes().startswith(starts[suffix.lower()])
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_written_picture_has_the_shapes_of_the_pair(tmp_path):
    write(zoo["at"], tmp_path / "tree.svg", shapes=PAIR)
    assert "N×512×4×4" in (tmp_path / "tree.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["tree.jpg", "tree"])
def test_unknown_suffix_lists_the_known_ones_and_writes_nothing(name, tmp_path):
    with pytest.raises(SettingError, match=r"\.svg, \.png, \.pdf, \.dot, \.mmd, \.tex, \.txt"):
        write(zoo["kd"], tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_missing_folder_gets_a_sentence(tmp_path):
    with pytest.raises(RunError, match="cannot write"):
        write(zoo["kd"], tmp_path / "missing" / "tree.svg")


def test_text_is_measured_as_wide_as_it_is():
    assert text_width("softmax_C", 13.0) == pytest.approx(2 * text_width("softmax_C", 6.5), rel=0.05)
    assert text_width("WWW", 13.0) > 2 * text_width("lll", 13.0)
