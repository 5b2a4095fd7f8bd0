"""Words that show by what they mean which kind of work a prompt asks for.

They are features beside the learned words, chosen by hand and by meaning, so that a request in words
that no training prompt used is still understood. How much each mark counts is learned.
"""

from __future__ import annotations

from typing import Final

#: To make something be seen.
_DRAWS: Final = "draw paint sketch illustrate depict photograph visualize visualise doodle animate"
#: To make something, a picture among others.
_MAKES: Final = "generate create make design produce render imagine craft show give want need like"
#: What is made to be looked at.
_PICTURES: Final = """
image images picture pictures pic photo photos photograph photographs photography illustration
illustrations drawing drawings painting paintings sketch sketches portrait portraits logo logos icon
icons poster posters wallpaper artwork art cartoon comic mural engraving rendering watercolor
watercolour collage clipart avatar sticker banner doodle selfie snapshot emoji caricature thumbnail
render fresco tapestry woodcut lithograph statue sculpture stained
"""
#: How a picture looks.
_STYLES: Final = """
photorealistic hyperrealistic photoreal gouache acrylic charcoal cinematic bokeh 4k 8k uhd hdr closeup
anime manga pixar ghibli cyberpunk steampunk vaporwave surreal surrealist impressionist cubist
minimalist isometric lowpoly octane artstation dslr monochrome sepia backlit moody pastel canvas
expressionist psychedelic baroque panoramic macro fisheye silhouette hyperdetailed
"""
#: What is seen in a picture.
_SCENES: Final = """
wearing holding standing sitting riding lying flying smiling hovering floating surrounded leaning
perched sunset sunrise foggy snowy background foreground sky meadow beach mountain forest street
"""
#: Programs, and what they are made of.
_CODES: Final = """
python javascript typescript java kotlin rust golang php sql html css bash powershell regex json yaml
xml csv code script function class method variable array string integer boolean loop api endpoint
database query compile compiler debug bug exception traceback stack import def return void const async
await null none true false print println algorithm react django flask pandas numpy docker kubernetes
linux git github npm pip server app website frontend backend refactor library framework module package
excel vba matlab tuple dictionary lists
"""
#: Mathematics, and drawing conclusions.
_REASONS: Final = """
prove proof theorem lemma equation equations integral derivative polynomial matrix probability
calculate compute solve sum product ratio percent percentage fraction remainder divisible prime
triangle angle radius perimeter diameter vertices integers modulo logarithm sqrt frac total altogether
each twice half remaining puzzle deduce clues
"""
#: To ask or to tell someone, rather than to show.
_ASKS: Final = """
who what when where why how which whose whom can could would should is are do does did will explain
write tell list describe find help please if let suppose given summarize translate compare evaluate
determine prove solve calculate compute name
"""
#: To do a piece of work, rather than to answer a question, and what makes such work large. Questions of
#: exams have none of it, so how much it counts is set by hand.
_WORKS: Final = """
design architect implement refactor optimize optimise prove derive migrate debug analyze analyse
critique integrate benchmark distributed concurrent concurrency scalable tradeoff tradeoffs offs
architecture microservices requirements constraints rigorous rigorously comprehensive
"""
_GREETINGS: Final = "hi hello hey thanks thank goodbye bye ok okay yes no welcome"

#: Word → marks. A word can have several.
MARKS: Final[dict[str, tuple[str, ...]]] = {}
for _mark, _words in (
    ("<draws>", _DRAWS),
    ("<makes>", _MAKES),
    ("<picture>", _PICTURES),
    ("<style>", _STYLES),
    ("<scene>", _SCENES),
    ("<code>", _CODES),
    ("<reasons>", _REASONS),
    ("<asks>", _ASKS),
    ("<works>", _WORKS),
    ("<greets>", _GREETINGS),
):
    for _word in _words.split():
        MARKS[_word] = (*MARKS.get(_word, ()), _mark)

#: Words that open the description of a scene: it names things, and asks nothing.
ARTICLES: Final = frozenset({"a", "an", "the", "two", "three", "four", "five", "some"})

#: What a prompt says of its own difficulty is no evidence of it, and how a question with given
#: answers is laid out is none either.
IGNORED: Final = frozenset(
    [
        "simple",
        "simply",
        "easy",
        "easily",
        "trivial",
        "basic",
        "quick",
        "quickly",
        "complex",
        "complicated",
        "hard",
        "difficult",
        "difficulty",
        "challenging",
        "advanced",
        "cheap",
        "cheaper",
        "expensive",
        "premium",
        "answer",
        "answers",
        "option",
        "options",
        "following",
    ]
)
