"""The phrases that the detectors look for, in English and German; a text in another language holds none of them.

Each line is a regular expression, found as whole words in any letter case. A straight apostrophe in it stands for a curly
one, too, and a space for any space.
"""

import re
from typing import Final


def phrases(*patterns: str) -> re.Pattern[str]:
    """A pattern that finds any of the phrases."""
    together = "|".join(patterns).replace("'", "['\u2019]").replace(" ?", r"\s*").replace(" ", r"\s+")
    return re.compile(rf"(?<!\w)(?:{together})(?!\w)", re.IGNORECASE)


# --- a turn that only closes ---

_DAY: Final = r"(day|morning|afternoon|evening|night|weekend|week|time|one|trip|rest of (the|your) \w+)"
_TAG: Final = r"(tag|morgen|nachmittag|abend|feierabend|wochenende|woche|zeit|ferien|rest\w*)"

CLOSING: Final = phrases(
    r"(many )?thank(s| you|ful)( (so|very) much| a (lot|million|bunch)| again)?( for( \w+){1,4})?|thx|cheers",
    r"i (really )?appreciate (it|that|(all )?your \w+)",
    r"you('re| are) (very |most |so |always )?welcome|no problem|no worries|any ?time|my pleasure|don't mention it",
    r"(i'm |i am |so )?(glad|happy) (i could|to|to have) help(ed)?|glad (it|that|this) helped",
    r"you too|same to you|likewise",
    r"good ?bye|bye([- ]bye)?|farewell|so long|take care|good ?night|(catch|see) (you|ya)( (later|soon|around|then))?",
    r"see (you|ya) (tomorrow|(next|on) \w+)|(until|till) (next time|then|tomorrow|we meet again)",
    r"(talk|speak)( to you)? (soon|later)|looking forward to (it|(our|the|your)( next)? \w+)",
    rf"(have|enjoy)( yourself)? (a|your|the) (\w+ )?{_DAY}( ahead| too)?",
    r"(good|best of) luck( (with|on|in) (your|the) \w+)?|all the best|best wishes|happy (learning|studying|coding)",
    r"keep (up the (good|great|excellent|hard) work|it up|practi[sc]ing|learning|going)",
    r"(it was|it has been|it's been) (a |such a |my |so )?(real |great )?(pleasure|joy|nice|great|lovely|fun|wonderful)"
    r"( (working|talking|chatting|learning|teaching|helping)( with| to| from)? you)?",
    r"i('ve)?( really)? enjoyed (our|this|the|working|talking) \w+",
    r"(feel free to|don't hesitate to) (reach out|ask|come back|let me know|message me)( anytime)?",
    r"(i'm|i am|i'll be) (always )?here (if|when|whenever) you need( \w+)?",
    r"if you (ever )?(have|need) (any|more|some|help)( (more|other|further))?( (help|questions?))?",
    r"(danke|dankeschön)( schön| sehr| dir| ihnen| euch| nochmals?| vielmals)*( für( \w+){1,3})?",
    r"(vielen|besten|herzlichen|tausend)( lieben)? dank( für( \w+){1,3})?",
    r"bitte ?(schön|sehr|gerne?)|^bitte|gerne?( geschehen| doch)?|kein problem|keine ursache|nichts zu danken",
    r"(es )?freut mich( sehr)?(,? (dass|wenn) ich( dir| ihnen)? helfen konnte)?",
    r"gleichfalls|ebenso|ebenfalls|(dir|ihnen) auch",
    r"tschüss?|tschüßi?|ciao|servus|auf wieder(sehen|hören)|mach('s|s| es) gut|leb wohl|gute nacht",
    r"bis (bald|dann|später|morgen|demnächst|nächste\w* \w+|zum nächsten mal)",
    r"alles gute|weiter so|viel (erfolg|glück|spaß|spass)( (bei|mit|beim)( \w+){1,2})?",
    rf"((noch|hab|habt|haben sie) )?(einen? )?(schöne[nrs]?|gute[nrs]?|tolle[nrs]?)( \w+)? {_TAG}( noch)?",
    r"melde? dich|melden sie sich|bei( weiteren)? fragen",
    r"wenn du( noch| weitere| mal)* (fragen|hilfe)( hast| brauchst)?",
)
GOES_ON: Final = phrases(
    r"but|however|wait|actually|because|let's|let us|before (you|we|i) go|so (the|it|that)",
    r"next (question|problem|step|task|example)|now (try|let|we|you|can|what|for)|(go|move) (ahead|on)",
    r"give it a (go|try)|try (it|this|that|the|to)|(tell|show) me|explain|(can|could) you",
    r"i( still)? (think|believe)|still|don't (get|understand)|not sure",
    r"aber|jedoch|moment|warte|eigentlich|weil|lass(t)? uns|nächste \w*(frage|aufgabe)|nächster schritt",
    r"versuch\w*|probier\w*|zeig mir|erklär\w*|(kannst|könntest) du",
    r"glaube|denke|verstehe( \w+)? nicht|nicht sicher",
)
"""Whoever says one of these asks, sets a task, or holds to something."""

# --- a reply that speaks of itself ---

_KIND: Final = (
    r"(possible|potential|suggested|appropriate|revised|improved|updated|corrected|rewritten|new|final|sample)"
)
_WHOSE: Final = r"((tutor|teacher|student|pupil|assistant)('s)? |next |my |own )*"
_REPLY: Final = r"(response|reply|utterance|next turn|next message|dialogue|follow-up question|rewritten turn)"
_ART: Final = r"(mögliche|überarbeitete|verbesserte|neue|korrigierte|nächste|passende)[rs]?"

ANNOUNCED: Final = phrases(
    rf"(here is|here's|below is|the following is) (an?|the|my|one)? ?({_KIND} )*{_WHOSE}{_REPLY}",
    rf"(here is|here's) (an?|the|my) {_KIND} (draft|version|turn|message)( of \w+ \w+)?\s*:",
    rf"hier (ist|kommt|wäre) (eine?|die|der|das|meine?) ({_ART} )*(antwort|rückmeldung) (des|der|als|für)( \w+)?",
    rf"hier (ist|kommt|wäre) (eine?|die|der|das|meine?) ({_ART} )*(äußerung|entwurf|überarbeitung|dialog|fassung)",
    rf"hier (ist|kommt|wäre) (eine?|die|der|das|meine?) {_ART} (antwort|nachricht|rückmeldung)",
)
ABOUT_ITSELF: Final = phrases(
    r"(this|my|the) (revised |new |above |updated )?(response|reply|draft|utterance) (now )?"
    r"(aims|avoids|does not|doesn't|encourages|guides|addresses|asks|acknowledges|keeps|maintains|stays|is designed|prompts"
    r"|leads|focuses|remains|includes|uses)",
    r"(i've|i have|i) (revised|rewritten|rewrote|adjusted|updated|reworked|shortened) (the|my)"
    r" (response|reply|draft|utterance|message|turn)",
    r"(based on|according to|following|in line with|taking into account) (the|your)"
    r" (feedback|critique|review|instructions|guidelines) (provided|given|above|i)",
    r"based on the (feedback|critique|review)",
    r"let me know if you('d| would)? (like|want|need) (me to |any |another |further |more )*"
    r"(adjust|revise|revision|change|modify|modification|variation|version)\w*",
    r"i hope this (response|reply|draft|meets|fits|works for your)|(word|token) count ?: ?\d+",
    r"end of (the )?(conversation|dialogue|session|transcript)",
    r"diese (antwort|äußerung|nachricht) (vermeidet|verrät|lenkt|führt|regt|enthält|soll|bleibt|ermutigt|berücksichtigt)",
    r"ich habe (die|meine|den|meinen) (antwort|entwurf|äußerung|nachricht) (überarbeitet|angepasst|gekürzt|umformuliert)",
    r"(auf grundlage|gemäß|entsprechend) (des|der|deiner|ihrer) (feedbacks|rückmeldung|kritik|anweisungen|hinweise)",
    r"as an? (ai|large language|language)( language)?( model| assistant| tutor)?,? i",
    r"als (eine? )?(ki|sprachmodell)(-?\w+)?,? (kann|habe|bin|darf) ich",
    r"i('m| am) (just |only )?(an? )?(ai|large language model|language model|virtual assistant|chatbot)",
    r"ich bin (nur )?(eine? )?(ki|sprachmodell|künstliche intelligenz)",
    r"(i'm|i am) sorry,? but i (can't|cannot) (assist|help|comply|fulfil|fulfill)( with)? (that|this|your)( request)?",
    r"i (can't|cannot|am unable to) (assist|comply) with (that|this|your)( request)?",
    r"my (training data|knowledge cut-?off|system prompt)",
)
ECHOED: Final = phrases(
    r"which you keep to yourself|(you are|you're) not the tutor|a note for you alone|you were about to say was sent back",
    r"(you are|you're) a (patient tutor|student in a lesson|tutor who teaches|curious student)",
    r"do not (state|reveal|give away) the answer|lead (them|the student) to find the answer",
    r"(give|say) only what you now say|what the student wrongly believes|what you believe: ",
    r"(reply|respond) to the student in (one|two) or (two|three)( plain)? sentences",
)
"""What stands in instructions to a role, and in nothing that it says."""
UNFINISHED: Final = phrases(
    r"the|an|and|or|because|which|whose|than|your|my",
    r"der|und|oder|weil|dass|deine|einer|eines|zum|zur|vom",
)
"""No sentence ends with one of these; one that trails off on purpose has dots or a dash."""

# --- a speaker who speaks as the other one ---

_GOOD: Final = r"(great|good|nice|excellent|fantastic|wonderful)"
_WORK: Final = r"(job|work|effort|try|attempt|start)"

TEACHES: Final = phrases(
    r"as your (tutor|teacher|instructor)|als dein(e)? (tutor|lehrer)(in)?",
    r"(you're|you are) on the right track|du bist auf dem richtigen weg",
    r"how (can|may) i (help|assist) you( today)?|wie kann ich (dir|ihnen) (heute )?helfen",
    rf"({_GOOD} {_WORK}|well done)[,.!]+ (\w+ )?(now|let's|can you|could you|what do|how (did|do|would) you|remember|try)",
    r"(prima|(gut|sehr gut|super) gemacht)[,.!]+ (jetzt|nun|lass uns|kannst du)",
    r"(let me|i'll|i will) (guide you|give you a hint|help you|teach you|explain (it|this|that) to you)",
    r"(now )?(it's )?your turn(,|!|\.)? (try|now|to|what|can)|now (you )?try (it|this|to)|jetzt bist du (dran|an der reihe)",
    r"(can|could) you (explain|tell me|show me|describe) your (answer|solution|reasoning|thinking|work|steps?)",
    r"(kannst|könntest) du (mir )?(erklären|sagen|zeigen),? wie du( \w+)?|kannst du (mir )?deine[nr]? (lösung|antwort|weg)",
    r"what do you (notice|already know|think (would )?happens?|think (the|is the) (first|next) step)",
    r"was fällt dir auf|was weißt du (schon|bereits)|ich erkläre (es )?dir|ich gebe dir einen (tipp|hinweis)",
    r"your (answer|solution|reasoning) is (not quite |almost )(correct|right)",
    r"deine (antwort|lösung) ist (nicht ganz|fast) richtig",
)
MAY_TEACH: Final = phrases(
    r"let's (work|go|break|think|start|take|look|review|explore)( \w+)?|lass uns( \w+)?|let me explain",
    rf"{_GOOD} ({_WORK}|question|thinking)|well done|gute frage|gut gemacht",
    r"think about (what|how)|remember that|keep in mind|consider (what|how)",
    r"denk (mal )?(daran|darüber|nach)|überleg(e)? (mal|dir)?",
    r"what do you think|was denkst du|was meinst du|does that make sense|do you (see|understand)|verstehst du( das)?",
    r"(can|could) you (try|explain|find|identify|calculate)|(can|could) you (tell|show) me how you (got|found|solved|did)",
    r"(kannst|könntest) du (mal )?(versuchen|berechnen|finden)",
    r"your (answer|solution|reasoning) is (correct|right|incorrect|wrong)|deine (antwort|lösung) ist (richtig|falsch)",
    r"first,? (identify|find|write|calculate)|the (first|next) step is to|versuch(e)? (mal|es)",
)
LEARNS: Final = phrases(
    r"(can|could|would|will) you (please )?(teach|help|tutor) me( (with|how|to|learn|solve|on))?(?! understand)( \w+)?",
    r"my (homework|assignment|test tomorrow)|is my (answer|solution|reasoning|guess) (right|correct)",
    r"am i (doing (it|this) right|on the right track)\?|i (still|really) (don't|do not) (get|understand) (it|how to)",
    r"(thank you|thanks)( so much)? for (teaching me|helping me|your help|explaining (it|this|that)? ?to me)",
    r"(you're|you are) (such )?an? (great|good|amazing|wonderful|patient|excellent) (tutor|teacher)",
    r"(that|it|this) makes( more)? sense now|now i (get it|understand)|i('ll| will) (practi[sc]e|do (more|some) exercises)",
    r"(kannst|könntest|können) (du|sie) mir (bitte )?(das )?(beibringen|helfen|erklären, (warum|was))",
    r"ist meine (antwort|lösung|rechnung) (richtig|korrekt)|meine hausaufgaben?|jetzt (verstehe|kapiere) ich( es| das)?",
    r"danke für (deine|die|ihre) (hilfe|erklärung)",
)
MAY_LEARN: Final = phrases(
    r"i'm (a (bit|little) )?(confused|unsure)|i'm not sure|i'm (so |still |really )?(stuck|lost)",
    r"i (think|guess|believe) (it's|it is|the answer is|that's)|i (don't|do not) (get|understand) (it|this|that)",
    r"(can|could) you (please )?(explain|clarify|tell me) (that|this|it|why|what)|i need (your |some )?help",
    r"what does (that|it|this) mean|please (explain|help)|what (should|do) i do (next|now)|did i (get|do) (it|that) right",
    r"ich bin (verwirrt|unsicher|mir nicht sicher)|ich (glaube|denke),? (es|das|die antwort) ist",
    r"ich (verstehe|kapiere|checke?) (das |es |immer noch |noch |hier )*nicht|ich komme nicht weiter",
    r"was muss ich (jetzt )?(tun|rechnen)",
    r"(kannst|könntest) du (das|es) erklären|ach so|mein fehler|stimmt meine \w+",
    r"oh,? (i see|okay|wait)|(thank you|thanks)( so much)? for explaining( \w+)?",
    r"i (made|did) a mistake|my bad",
)
PLAYING: Final = phrases(
    r"imagine|pretend|suppose|as if|role-?play|if (you|i) were|what would you (say|tell)",
    r"stell(en sie)? dir vor|angenommen|tu so|nehmen wir an|(you|du) (are|be|bist|spielst) the (teacher|tutor)",
)
"""Who plays a part on purpose has not lost their own."""

# --- a tutor who calls an answer right ---

CALLS_RIGHT: Final = phrases(
    r"((that's|that is|this is|you're|you are|it's|it is|yes|absolutely|quite|exactly|completely|totally),? )*"
    r"(absolutely |exactly |quite |completely |totally |perfectly )?(right|correct)",
    r"exactly|precisely|spot on|bingo|you('ve)? (got it|nailed it)|that's it",
    r"((das (ist|stimmt)|du hast|ja|ganz|absolut|vollkommen),? )*(genau richtig|richtig|korrekt|recht)",
    r"(das )?stimmt( genau)?|genau",
)
PRAISES: Final = phrases(
    r"(perfect|excellent|well done|brilliant|amazing|awesome|fantastic|wonderful)( (job|work|answer|solution))?",
    r"(great|good|nice) (job|work|answer|solution)",
    r"perfekt|ausgezeichnet|hervorragend|bravo|prima|sehr gut|(gut|super|toll) gemacht",
)
TAKES_BACK: Final = phrases(
    r"almost|nearly|close|partly|partially|part|half|except|while|if|how|why|check|try|effort|start|idea|thinking",
    r"on the right track|let's see|about the|(right|correct),? (that|when|in|about|it|he|she|they|back)",
    r"to (ask|wonder|try|think|look|notice|point|question|use|want|add|be)|that (you|we|the|1|there|both)",
    r"fast|beinahe|teilweise|teil|wenn|ob|dass|versuch|ansatz|idee|gedanke|anfang|prüfe|überprüfe",
)
"""Praise for the way, or for a part, is not praise for the answer."""
CORRECTS: Final = phrases(
    r"not|\w+n't|but|however|although|though|yet|actually|error|mistake|wrong|instead",
    r"nicht|kein|aber|jedoch|obwohl|zwar|allerdings|fehler|falsch|stattdessen|sondern",
)
"""Who goes on so has not left a wrong answer standing."""
