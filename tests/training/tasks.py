"""Which task a source's label stands for: the one table that decides what the classifier learns.

Questions of fact, of reading and of common sense are text; arithmetic, proofs and puzzles are
reasoning, whatever they are asked for with.
"""

from __future__ import annotations

from typing import Final

TASK_OF: Final = {
    "code": "code",
    "image_caption": "image",
    "llmrouter:mbpp": "code",
    "llmrouter:gsm8k": "reasoning",
    "llmrouter:math": "reasoning",
    "llmrouter:agentverse-mgsm": "reasoning",
    "llmrouter:agentverse-logicgrid": "reasoning",
    "llmrouter:mmlu": "text",
    "llmrouter:natural_qa": "text",
    "llmrouter:trivia_qa": "text",
    "llmrouter:arc_challenge": "text",
    "llmrouter:openbook_qa": "text",
    "llmrouter:commonsense_qa": "text",
    "llmrouter:commongen": "text",
    "arena_hard_v2:coding": "code",
    "arena_hard_v2:math": "reasoning",
    "arena_hard_v2:creative_writing": "text",
}

#: Topics of the first arena-hard, by the name of their cluster. A cluster whose name does not settle
#: what its prompts ask for is in none of these, and its prompts are not used.
_TOPICS: Final = {
    "code": """
        Advanced Matplotlib Customizations|Advanced Regex Techniques|Advanced TypeScript Concepts
        |Android Development Challenges|Basic Assembly Operations|Browser Extensions Development
        |C++ Code Conversion Challenge|CSS Flexbox & Bootstrap Layouts|CSV Data Manipulation in Pandas
        |Calculating Pi with Code|Code Deobfuscation Techniques|Concurrency, Sockets, and Webhooks
        |Databricks & Spark Integration|Django Models & Serializers|Docker Deployment & Configuration
        |Excel VBA and Formulas|Fixing Fibonacci & Factorial Code|Flask Web Development Essentials
        |GIS Scripting and Customization|Gradio Interfaces and Blocks|HDL Design and Verification
        |HLSL Shader Decompilation Refactoring|Interactive Data Visualization in Python
        |JavaScript Code Manipulation Techniques|JavaScript Fourier Transformation
        |Kotlin Development & Techniques|Kubernetes Management & Configuration
        |Linux Package Management Issues|Mocking Techniques and Testing
        |Node.js & Authentication Development|PHP, CORS, and Server Requests|Python Audio Processing
        |Python Coding Challenges|Python Concurrency Challenges|Python Data Structures
        |Python Looping and Counting|Python Prime Number Validation|Python Web Scraping
        |RNN Implementation in VB6|React Component Development|Roblox Scripting and Mechanics
        |Rust Fibonacci & Factorial Functions|Rust Structs and Traits|String Reversal Techniques
        |Swift Retry Management|Symfony, Doctrine, CQRS/Event Sourcing
        |Tailwind CSS & Next.js Development|Text Processing with Awk/Sed/Grep
        |Tidyverse Data Manipulation|Video Download & Bot Scripts|WPF Settings Persistence
        |Web Development & APIs|Web Page Navigation Testing
    """,
    "reasoning": """
        Advanced Mathematical Problem-Solving|Dice Probability Calculations
        |Electromagnetic Phenomena and Theorems|Investment Growth Calculations
        |Math Problems and Solutions|Number Substitution Patterns
        |Probability Distributions & Statistics|Real Analysis Continuity
        |Time Calculations & Conversions|Triangle Geometry Analysis
    """,
    "text": """
        Advanced Guitar Chord Theory|Agile Scrum Leadership|AI Startup Business Strategies
        |Baking and Peanut Butter Recipes|Business Operations Analysis|CIO Biotech IT Strategy
        |Climate Change Skepticism|Cybersecurity Research and Trends
        |Debate Preparation and Argumentation|Endurance Race Training|Exam Cheating Strategies
        |GenAI in Enterprise Operations|Grocery Industry Disruption|Healthy Meal Planning
        |Hospital Design & Management|Innovative Online Market Models|Leave Request Form Elements
        |Library Science Research Trends|Marketing Strategy Essentials
        |Medical Conditions and Procedures|Patenting, Axles, Molding, Motors
        |Philosophy & Theology Reviews|Prepositions Semantic Etymology|Product Reinvention Analysis
        |Radiology AI in Healthcare|Startup Business Planning|Taxation Knowledge and Queries
    """,
}
_TASK_OF_TOPIC: Final = {
    f"arena_hard:{topic.strip()}": task
    for task, topics in _TOPICS.items()
    for topic in topics.split("|")
}


def task_of(label: str) -> str | None:
    """Return the task of a source's label; `None` where the label does not settle it."""
    return TASK_OF.get(label) or _TASK_OF_TOPIC.get(label)


#: How people ask for a picture. The first are learned with; the second only judge, and share no
#: sentence with them.
ASKED_LEARNED: Final = (
    "Generate an image of {}",
    "Create a picture showing {}",
    "Draw {}",
    "Please make an illustration: {}",
    "I need a photo of {}",
    "Paint {} in watercolor",
    "{}, digital art, highly detailed, 4k",
    "Can you draw me {}?",
)
ASKED_JUDGED: Final = (
    "Produce artwork depicting {}.",
    "Could you sketch {} for me?",
    "Design a poster with {}",
    "I would like a portrait that shows {}, oil on canvas",
    "Render {}, cinematic lighting, octane",
    "Imagine {}. Make it a cartoon.",
    "Illustrate the following scene: {}",
    "{} --ar 16:9",
)
#: What speaks of pictures and asks for none; learned with.
NOT_ASKED: Final = (
    ("text", "Describe what you see in this picture."),
    ("text", "What is shown in the attached image?"),
    ("text", "Write a caption for this photo of {}."),
    ("text", "Write a short story about {}."),
    ("text", "Write a poem about {}"),
    ("text", "Tell me about {}"),
    ("text", "Who painted {}?"),
    ("text", "Translate into French: {}"),
    ("code", "Write a Python script that resizes every image in a folder."),
    ("code", "Write HTML that shows a picture of {} beside a paragraph."),
    ("code", "How do I draw a line with matplotlib?"),
    ("code", "Create a React component that renders {}"),
    ("text", "Hi"),
    ("text", "Hello, how are you?"),
    ("text", "Thanks!"),
    ("text", "The server is down again."),
    ("text", "My order has not arrived yet"),
    ("text", "Sounds good, see you tomorrow"),
    ("text", "Fix the spelling of this sentence: {}"),
    ("text", "The invoice for March"),
    ("text", "A refund for my last order"),
    ("text", "notes from the meeting on Tuesday"),
    ("text", "the quarterly report and a summary of the contract"),
    ("text", "An email to the team about the new office"),
    ("text", "A train leaves at 3 pm and arrives at 5 pm"),
    ("reasoning", "What is 17 times 24?"),
    ("reasoning", "Prove that the square root of 3 is irrational."),
    ("text", "Summarize the article below. {}"),
)
