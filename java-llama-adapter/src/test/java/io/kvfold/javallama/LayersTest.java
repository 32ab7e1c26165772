package io.kvfold.javallama;

import static com.tngtech.archunit.lang.syntax.ArchRuleDefinition.noClasses;

import com.tngtech.archunit.core.importer.ImportOption;
import com.tngtech.archunit.junit.AnalyzeClasses;
import com.tngtech.archunit.junit.ArchTest;
import com.tngtech.archunit.lang.ArchRule;

@AnalyzeClasses(packages = "io.kvfold.javallama", importOptions = ImportOption.DoNotIncludeTests.class)
class LayersTest {

    @ArchTest
    static final ArchRule knowsTheEngineOnlyByItsPublicApi =
            noClasses().should().dependOnClassesThat().resideInAnyPackage("io.kvfold.internal..", "com.sun.jna..");

    @ArchTest
    static final ArchRule doesNotLoadTheOtherLibrary =
            noClasses().should().dependOnClassesThat().haveFullyQualifiedName("de.kherud.llama.LlamaModel");
}
