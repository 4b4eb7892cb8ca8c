"""The words that answers are told from talk by: tables, and no logic.

English, German, Spanish and French stand together, for a word of one is seldom another word of the others.
"""

from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


LABELS: Final = _words(
    """step steps part question exercise problem task line row column page chapter section figure fig example option
    hint grade year level version number no nr unit lesson schritt teil frage aufgabe zeile seite kapitel abschnitt
    bild beispiel stufe klasse paso parte pregunta ejercicio página étape partie exercice ligne python"""
)
"""A number behind one of them is a name, not a quantity: step 3."""
COMMON: Final = _words(
    """a about above across after again against ago all almost alone along already also always am among an and another
    any anyone anything are around as ask at away back be because been before behind being below best better between
    big both but by came can cannot come could day did different do does doing done down during each early easy
    either else end enough equal even ever every everything exactly example fact false far few find first for form
    found from full further gave general get give given go goes good got great had half hand hard has have he help
    her here high him his how i idea if in inside instead into is it its just keep kind know large last late later
    least left less let like likely little long look low made main make many may me mean means middle might mine
    more most much must my name near need neither never new next nice no nobody none nor normal not nothing now
    number of off often old on once one only open or other our out outside over own part people perhaps place point
    possible present put quite rather ready real really right round said same say second see seem several shall she
    short should show side simple since small so some something soon still stop such sure take tell than thank that
    the their them then there these they thing think this those though through time to together too top true try
    turn two under until up upon us use very want was way we well went were what when where whether which while who
    whole why will with within without word words work would write wrong yes yet you your zero z average current
    aber als am an auch auf aus bei da damit das dass dein dem den der des die dies du durch ein eine er es für
    gleich hat ich ihr im in ist ja kein keine man mehr mein mit nach nein nicht nichts noch nun nur ob oben oder
    sehr sich sie sind so um und unten uns unter viel vom von vor war was weder weg weil wenn wer wie wieder wir wo
    zu zum zur wahr falsch al así como con cuando de del donde el ella en entre es esa ese eso esta este está hay la
    las le lo los más me mi mismo muy nada ni o para pero por porque que qué se si sí sin sobre su también te tu un
    una y ya au aussi avec ce ces cette dans des donc du elle est et il ils je la le les mais même ne non nous on ou
    où par pas plus pour qu que qui rien sa sans se ses si son sur ta te ton tu un une vous"""
)
"""Words that stand in any talk: an answer made of such words alone is told from talk only where it is claimed."""
CUES: Final = _words(
    """= is are was were be s re equals equal gives give makes make get gets got prints print printed returns return
    returned outputs output displays answer answers say says write choose choosing pick use need becomes become
    called has contains result value means leaves costs yields ist sind war wären sei ergibt macht lautet bleibt
    kostet heisst antwort ergebnis sagt nimm es son era da sale queda resultado respuesta est sont fait donne vaut
    réponse"""
)
"""What an answer stands behind when somebody gives it."""
FILLERS: Final = _words(
    """exactly just simply only about therefore actually really indeed also always then thus so : " ' the a an in to
    that of genau nur also einfach der die das im exactamente el la exactement le les"""
)
"""What may stand between such a cue and the answer."""
QUESTION_WORDS: Final = _words(
    """what which who whom whose how why when where what's was welche welcher welches welchen wer wie warum wann wo
    wohin qué cuál cuánto cuántos cuántas cómo quand quel quelle quelles combien pourquoi comment"""
)
NEGATIONS: Final = _words(
    """not no never cannot t isn aren wasn doesn don nicht kein keine keinen nie no nunca ni pas jamais neither nor"""
)
CONDITIONS: Final = _words("""if suppose imagine whether unless wenn falls ob angenommen si supón supposons""")
HOW_MANY: Final = (("how", "many"), ("wie", "viele"), ("cuántos",), ("cuántas",), ("combien", "de"))
PERCENT: Final = frozenset({"%", "percent", "percentage", "prozent", "prozentsatz", "porcentaje", "pourcentage"})
EITHER_OR: Final = frozenset({"or", "oder", "o", "ou", "/", "versus", "vs"})
OPPOSITES: Final = (
    ("true", "false"),
    ("yes", "no"),
    ("up", "down"),
    ("left", "right"),
    ("even", "odd"),
    ("ja", "nein"),
    ("wahr", "falsch"),
    ("sí", "no"),
    ("oui", "non"),
    ("increase", "decrease"),
    ("positive", "negative"),
)
"""Where the answer is one of two, denying the other gives it away."""
HINTS: Final = (
    ("starts", "with"),
    ("begins", "with"),
    ("ends", "with"),
    ("rhymes", "with"),
    ("first", "letter"),
    ("last", "letter"),
    ("first", "digit"),
    ("beginnt", "mit"),
    ("empieza", "con"),
    ("commence", "par"),
)
"""What is said before a word is spelled out in part."""
ENDINGS: Final[dict[str, tuple[str, ...]]] = {
    "en": ("s", "es"),
    "de": ("s", "es", "n", "en", "e", "er", "em"),
    "es": ("s", "es"),
    "fr": ("s", "es", "e"),
}
"""What a word may take on, or lose, and be the same word."""
