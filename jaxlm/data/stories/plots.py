"""Plots in which something happens to the hero: a loss, a find, a meeting, a noise."""

from jaxlm.data.stories.tables import Rule, rule

# Something of one's own is lost, and found again.
LOST = {
    "lost": rule("<own> <take> <lose> <grieve> <meet> <tell> <search> <found> <glad> <ending>"),
    "own": rule(
        "{name} had {+look.a} {+toy} and took it everywhere.",
        "{name.His} favorite thing [in the world |of all |]was {+look.a} {+toy}.",
        "{name.He} owned {+look.a} {+toy}.",
        "There was one thing {name.he} loved most: {+look.a} {+toy}.",
        "For {name.his} birthday, {name.he} got {+look.a} {+toy} from {name.his} {+elder}.",
        given=("name",),
    ),
    "take": rule(
        "{+time.Cap}, {name} {+go} to the <site> [with the {toy}|with it|to play with it].",
        "It happened {+time}: {name} took the {toy} to the <site>[.| in a bag.]",
    ),
    "lose": rule(
        "But soon the {toy} was gone.",
        "When {name.he} looked [down|up|around], the {look} {toy} was gone.",
        "After a while, {name.he} could not find the {toy}.",
        "There {name.he} [put the {toy} down and forgot where|dropped it and did not see it].",
        "{+nature.A} {+creature} took it and ran away.",
        "The wind [took it away|picked it up].",
        given=("place.kind",),
    ),
    "tell": rule(
        '"I lost my {look} {toy}," {+said} {name}[.| {+sadly}.]',
        '"My {toy} is gone," {+said} {name}[.| {+sadly}.]',
        '"I cannot find my {toy}," {+said} {name}.',
        "{name} told {pal.him} about the {look} {toy}.",
        '"I had {look.a} {toy}, and now it is gone," {+said} {name}.',
    ),
    "search": rule(
        "They looked {+spot}[ and {+spot2}.| for {+days} minutes.]",
        "Together, they looked {+spot}, but it was not there.",
        "{pal} looked {+spot}, and {name} looked {+spot2}.",
        "First, they looked {+spot}. Then they looked {+spot2}.",
    ),
    "found": rule(
        "At last, {pal} [saw|found|spotted] the {toy} {+spot3}.",
        "And there it was, {+spot3}!",
        "In the end, {name} [saw|found|spotted] it {+spot3}.",
        "The {toy} was {+spot3}!",
        '"Look {+spot3}!" {+cheer} {pal}. It was the {look} {toy}!',
    ),
}

# Something is found, and given back to the one who lost it.
FIND = {
    "find": rule("<finding> <seen> <whose> <meet> <owner> <back> <reward> <ending>"),
    "finding": rule(
        "There {name.he} [saw|found|noticed|spotted] {+find.a} {+spot}.",
        "{+spot.Cap}, {name.he} [found|saw] {+find.a}.",
        "{name} [almost fell over|found|picked up] {+find.a} {+spot}.",
        "Something lay {+spot}. It was {+find.a}!",
        given=("place.kind",),
    ),
    "seen": rule(
        "It was {+sheen}[.| and {+sheen2}.]",
        "{name.He} had never seen such {+sheen.a} {find}.",
        "What {+sheen.a} {find}!",
        given=("find.group",),
    ),
    "whose": rule(
        '"Whose {find} is this?" {name} [wondered|asked|thought].',
        "{name} wanted to keep the {find}, but it was not {name.own}.",
        '"Someone must miss this {find}," {name} [thought|said].',
        "{name.He} asked {+nature.a} {+creature}, who had never seen it.",
        "{name} looked for its owner.",
        given=("trait",),
    ),
    "owner": rule(
        '"Have you seen my {sheen} {find}?" asked {pal}.',
        "{pal} [was|looked] {+upset} because {pal.his} {find} was gone.",
        '"I lost my {find}," {pal} [said|sobbed|told {name.him}].',
        "The {friend} was looking for {sheen.a} {find}.",
        given=("friend",),
    ),
    "back": rule(
        "{name} gave {pal.him} the {find}[.| {+manner}.]",
        '"Is this yours?" asked {name}. {pal} [nodded|said yes|took the {find}] {+manner}.',
        "So {name} gave it back.",
        '"Here it is," {name} [said|told {pal.him}] {+manner}.',
        given=("trait",),
    ),
    "reward": rule(
        "{pal} was so {+joy} that {pal.he} {+celebrate}.",
        "<praise> Then they ate some {+taste} {+food}, and {name} felt {+joy}.",
        "{pal.He} gave {name} [{+glow.a} {+gift}|some {+taste} {+food}]. {name} was {+joy}.",
        "Now {pal} was {+joy}, and {name} was {joy} too.",
        given=("friend",),
    ),
}

# Someone is in need.
COMPANY = {
    "help": rule("{pal} was {+problem}. [<plea> |]<aid> [<praise> |]<thanks> <close>"),
    "plea": rule(
        '"[Please help me|Can you help me|Help|I need help]!" {+cheer} {pal}.',
        '"How can I help?" asked {name}.',
        "No one else had stopped to help.",
        given=("problem.need",),
    ),
    "aid": Rule(
        {
            "stuck": [
                "{name} pulled {+manner} until {pal} was free.",
                "With {+make.a} {+aid}, {name} set {pal.him} free.",
                "{name} called {+nature.a} {+creature}, and together they got {pal.him} out.",
            ],
            "lost": [
                "{name} took {pal.his} hand and they walked for {+days} minutes.",
                "{name} asked {+nature.a} {+creature} for the way and led {pal} home.",
                "With {+make.a} {+aid}, {name} showed {pal.him} the right road.",
            ],
            "hungry": [
                "{name} gave {pal.him} some {+taste} {+food}.",
                "{name} ran home and came back with some {+taste} {+food}.",
                "They sat down and shared {name.his} {+taste} {+food}.",
            ],
            "cold": [
                "{name} gave {pal.him} {+wrap.a}.",
                "{name} made a fire and some {+taste} {+food}.",
                "{name} ran home and came back with {+wrap.a}.",
            ],
            "hurt": [
                "{name} made a bandage from {+wrap.a}.",
                "{name} took {pal.him} to the doctor on {+ride.a}.",
                "{name} sat with {pal.him} and fed {pal.him} some {+taste} {+food}.",
            ],
            "work": [
                "{name} took {+make.a} {+aid} and worked {+manner} for {+days} minutes.",
                "{name} helped {pal.him} {+manner} until the work was done.",
                "{name} asked {+nature.a} {+creature} to help, and soon it was done.",
            ],
            "sad": [
                "{name} told {pal.him} a joke about {+nature.a} {+creature}.",
                "They played {+game} until {pal} smiled.",
                "{name} sat down and listened {+manner}.",
                "{name} gave {pal.him} {+glow.a} {+gift}.",
            ],
        },
        given=("problem",),
        fits={"problem": lambda alternative, problem: alternative["group"] == problem["need"]},
    ),
    "thanks": rule(
        "To say thank you, {pal} gave {name.him} {+glow.a} {+gift}. {name} was {+joy}.",
        "Soon {pal} was {+joy} again.",
        "{pal.He} was so {+joy} that {pal.he} {+celebrate}.",
        "It made {name} {+joy} to help.",
        given=("problem.need",),
    ),
    "quarrel": rule("<both> <fight> <broken> <sorry> <peace> <ending>"),
    "both": rule(
        "They both wanted to play with {+hue2.a} {+plaything}.",
        "{pal} had brought {+hue2.a} {+plaything}, and {name} wanted it.",
        "{name} had brought {+hue2.a} {+plaything}, but {name.he} did not want to share it.",
        given=("trait",),
    ),
    "fight": rule(
        '"It is mine!" {+cheer} {name}. "No, it is mine!" said {pal}.',
        "They pulled and pulled[.| {+manner}.]",
        '"Give me the {plaything}!" {+cheer} {name}.',
        "{name} took the {plaything} and would not give it back.",
        given=("friend",),
    ),
    "broken": rule(
        "Then the {plaything} [broke|fell down|landed {+spot}]. Now {name} felt {+upset}.",
        "{pal} went away, and {name} felt {+upset}.",
        "Soon they were both {+upset}.",
        "{+nature.A} {+creature} came and took the {plaything}. {name} was {+upset}.",
        given=("trait",),
    ),
    "sorry": rule(
        '"I am sorry," {+said} {name}[.| {+sadly}.]',
        "{name} said sorry {+sadly}.",
        '"Let us share," {+said} {name}.',
        '{name.His} {+elder} saw it and said, "You must be {+lesson}."',
        '"I do not want to fight," {+said} {name}.',
        given=("upset",),
    ),
    "peace": rule(
        "They took turns with the {hue2} {plaything}, and {name} was {+joy}.",
        "{pal} smiled, and they played {+game}. {name} was {+joy}.",
        "They got the {plaything} back with {+make.a} {+aid}. How {+joy} they were!",
        "They ate some {+taste} {+food} together and felt {+joy}.",
        given=("friend",),
    ),
    "trip": rule("<ride> <storm> <shelter> <over> <close>"),
    "ride": rule(
        "Together, they [took|rode in|found|got into] {+ride.a}.",
        '"Let us go on a trip!" {+cheer} {pal}. So they took {+ride.a}.',
        "They went for a ride in {+ride.a}.",
        given=("friend",),
    ),
    "storm": rule(
        "After {+days} minutes, {+weather}. <grieve>",
        "Then {+weather}, and {name} felt {+upset}.",
        "Suddenly, {+weather}! The {ride} stopped. <grieve>",
        "But {+weather}. They were [far from home|all alone], and {name} was {+upset}.",
    ),
    "shelter": rule(
        "They hid {+spot} and [ate|shared] some {+taste} {+snack}.",
        '"Do not be {upset}," said {pal}. {pal.He} sang {+manner}.',
        "{pal.He} told a story about {+nature.a} {+creature}.",
        "{pal} gave {name} {+wrap2.a} to keep warm.",
        "They sat {+spot} and played {+game}.",
        "{name} found {+make.a} {+aid} {+spot}, and they used it to get home.",
        given=("place.kind",),
    ),
    "over": rule(
        "When it was over, {name} felt {+joy}.",
        "Soon the {ride} was moving again, and they were {+joy}.",
        "At last they were home, safe and {+joy}.",
        "It had been a long day, but {name} was {+joy}.",
        given=("time.weather",),
    ),
    "play": rule("<game> <turn> <win> <close>"),
    "game": rule(
        "They [played|began to play|wanted to play] {+game}[.| for {+days} minutes.]",
        '"Do you want to play {+game}?" asked {pal}[.| the {friend}.]',
        '"I know a game," {+cheer} {pal}. "It is called {+game}."',
        given=("friend",),
    ),
    "turn": rule(
        "First, {pal} won. <grieve>",
        "{name} [lost|fell down|got tired] after {+days} minutes and felt {+upset}.",
        "But {name} did not know how to play {game}. <grieve>",
        "They laughed {+manner}, but then {name} got hurt and was {+upset}.",
        given=("game",),
    ),
    "win": rule(
        '"Try again," said {pal}. The next time, {name} won and was {+joy}.',
        "{pal} [let {name.him} win|shared some {+taste} {+food}]. {name} felt {+joy}.",
        "They played {+game} next, and {name} was {+joy}.",
        '"It is only a game," said {pal}. Soon they were both {+joy}.',
        "Then {+nature.a} {+creature} joined them, and they {+celebrate2}. How {+joy} they were!",
        given=("friend",),
    ),
}

# Things are counted and shared; a noise turns out to be a friend.
ALONE = {
    "gather": rule("<harvest> <meet> <asked> <share> <rest> <close>"),
    "harvest": rule(
        "{name.He} [picked|gathered|found|counted] {+count} {+fruit} there.",
        "{name.His} {+elder} had asked for {+count} {+fruit}, and {name.he} found them all.",
        "There were {+count} {+fruit} {+spot}, and {name} took them.",
        given=("place.kind",),
    ),
    "asked": rule(
        '"I have no {fruit}," [said|sighed] {pal}[.| {+manner}.]',
        '"May I have some {fruit}?" asked {pal}.',
        "{pal} was {+upset} because {pal.he} had no {fruit}.",
        "{pal.He} loved {fruit} more than {+taste} {+food}.",
        given=("friend",),
    ),
    "share": rule(
        "So {name} gave {pal.him} {+gave} of the {fruit}.",
        "{name} had {count} {fruit} and gave {pal.him} {+gave}.",
        '"Take {+gave} of my {count} {fruit}," {name} [said|answered] {+manner}.',
        given=("trait",),
    ),
    "rest": rule(
        "Now {name} had {+left} {fruit} left and was {+joy}.",
        "That left {+left} {fruit}, and both were {+joy}.",
        '"I still have {+left}," said {name}, who felt {+joy}. <praise>',
        "{name} took {+left} {fruit} home and felt {+joy}.",
        given=("gave",),
    ),
    "noise": rule("<hear> <fear> <peek> <only> <laugh> <close>"),
    "hear": rule(
        "Suddenly, {name.he} heard {+sound.a}[.|, and then another.|, and it came closer.]",
        "Something made {+sound.a} {+spot}.",
        '"What was that?" {name} asked. It was {+sound.a}.',
        given=("time.weather",),
    ),
    "fear": rule(
        "<grieve>",
        '"Who is there?" {name} asked. {name.He} felt {+upset}.',
        '"Is it {+nature.a} {+creature}?" {name} thought and was {+upset}.',
    ),
    "peek": rule(
        "{name} [took|picked up|held on to] {+make.a} {+aid} and looked {+spot}.",
        "{+manner.Cap}, {name} looked {+spot}.",
        "{name.He} wanted to run away, but {name.he} looked {+spot}.",
        given=("trait",),
    ),
    "only": rule(
        "But it was only {+temper.a} {+friend} named {+pal}!",
        "There sat {+temper.a} {+friend} called {+pal}.",
        "It was not a monster. It was {+temper.a} {+friend} named {+pal}.",
        given=("sound",),
    ),
    "laugh": rule(
        '"I am sorry," {+cheer} {pal}. "I dropped my {+glow} {+gift}." {name} felt {+joy}.',
        '"I was only playing with {+glow.a} {+gift}," {+cheer} {pal}. {name} was {+joy}.',
        "They both laughed {+manner} and shared some {+taste} {+food}. {name} was {+joy}.",
        '"Did I scare you?" asked {pal}. Soon they were both {+joy}.',
        '"That {sound} was me," {+cheer} {pal}. {name} was so {+joy} that {name.he} {+celebrate}.',
        given=("friend",),
    ),
}
